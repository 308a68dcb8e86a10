"""The protocols: a fixed list of evaluations, each frozen in a YAML file, versioned and fingerprinted.

A protocol's settings are the same for every row of a grid; they depend on the scale alone. The fingerprint covers name,
version and settings: where it differs, two numbers may not stand in one column.
"""

from __future__ import annotations

import importlib.resources
import re
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import yaml

from mimbench.config.coerce import coerce
from mimbench.config.ranges import (
    FILLED,
    Count,
    Exempt,
    Fraction,
    NotNegative,
    Positive,
    PositiveShare,
    Range,
    Share,
    at_least,
    between,
)
from mimbench.errors import UserError, check_known
from mimbench.kinds import PROTOCOLS as PROTOCOLS
from mimbench.store.files import fingerprint

DISTINCT = Range(  # each trains in a folder named by six digits
    "different in their first six digits", lambda rates: len({f"{rate:g}" for rate in rates}) == len(rates)
)
FROM_TO = Range("the smallest share, then the largest", lambda area: area[0] <= area[1])
RAND_AUGMENT = Range(
    "timm's words for RandAugment, such as rand-m9-mstd0.5-inc1",
    lambda words: bool(re.fullmatch(r"rand(-(m|n|p|mstd|mmax|inc)\d+(\.\d+)?)*", words)),
)
RESCALES = ([4, 2, 1, 0.5], [2, 1, 0.5, 0.25])  # what mmsegmentation's neck takes, in this order
SETTINGS: dict[str, Any] = {  # what a setting may be
    "learning_rates": Annotated[list[Positive], FILLED, DISTINCT],
    "min_lr_ratio": Share,  # of the learning rate
    "epochs": Count,
    "batch": Count,
    "segmentation.batch": Annotated[int, at_least(2)],  # for batch norm
    "linear_probe_mae.batch": Annotated[int, at_least(2)],
    "warmup": Share,  # of the steps
    "weight_decay": NotNegative,
    "betas": tuple[Fraction, Fraction],
    "layer_decay": PositiveShare,
    "drop_path": Fraction,
    "label_smoothing": Fraction,
    "clip": Positive | None,
    "no_decay": Exempt,
    "area": Annotated[tuple[PositiveShare, PositiveShare], FROM_TO],
    "pooling": Literal["class_token", "mean"],
    "finetune.pooling": Literal["class_token", "mean", "both"] | None,
    "momentum": Fraction,
    "trust": Positive,
    "mixup": NotNegative,
    "cutmix": NotNegative,
    "rand_augment": Annotated[str, RAND_AUGMENT] | None,
    "erasing": Share,
    "repeats": Annotated[int, between(1, 16)],
    "ema": Fraction | None,
    "head_std": Positive,
    "curve": bool,
    "precision": Literal["auto", "fp32", "bf16"],
    "neighbors": Annotated[list[Count], FILLED],
    "bank": Count,
    "temperature": Annotated[float, at_least(0.0125)],  # for exp(1 / temperature) to fit 32 bits
    "crop": Count | None,  # None: the size of the data
    "resize": tuple[Count, Count] | None,
    "photometric": bool,
    "head": Literal["upernet", "setr_pup"],
    "decay": Literal["cosine", "linear"],
    "steps": Count | None,
    "test_ratios": Annotated[list[Positive], FILLED],
    "test_flip": bool,
    "first_class_weight": NotNegative,
    "rescales": Annotated[list[int | float], Range(" or ".join(map(str, RESCALES)), lambda maps: maps in RESCALES)],
    "channels": Count,
    "auxiliary_channels": Count,
}


@dataclass(frozen=True)
class ProtocolSpec:
    name: str
    version: int
    label: str
    metric: str
    unit: str
    summary: str
    settings: dict[str, Any]
    neutral: dict[str, Any] = field(default_factory=dict)  # settings added later: as before at these values
    rests_on: dict[str, str] = field(default_factory=dict)  # fingerprints of the protocols whose choice it takes over

    @property
    def named(self) -> dict[str, Any]:
        """The settings that enter fingerprints and names of runs: without those at their neutral value."""
        return {
            key: value for key, value in self.settings.items() if key not in self.neutral or value != self.neutral[key]
        }

    @property
    def fingerprint(self) -> str:
        rests_on = {"rests_on": self.rests_on} if self.rests_on else {}
        return fingerprint({"name": self.name, "version": self.version, "settings": self.named, **rests_on})


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((importlib.resources.files(__name__) / f"{name}.yaml").read_text(encoding="utf-8"))


def load(
    name: str, of_scale: dict[str, Any], place: str, overrides: dict[str, Any] | None = None, precision: str = "fp32"
) -> ProtocolSpec:
    """A protocol with the settings of a scale, whose file is `place`, then those of --set protocols.NAME.KEY=VALUE.

    Both change the fingerprint. What has no default must be stated: no size of model or data gets another one's settings.
    """
    raw = read(name)
    settings, needed = {**raw.get("neutral", {}), **raw.pop("settings")}, raw.pop("of_scale", [])
    for source, values in ((f"{place}: protocols.{name}", of_scale), ("--set protocols." + name, overrides or {})):
        for key, value in values.items():
            check_known(source, f"setting of protocol '{name}'", key, (*settings, *needed))
            settings[key] = checked(name, key, value, f"{source}.{key}")
    if missing := [key for key in needed if key not in settings]:
        raise UserError(f"{place}: protocols.{name}: {', '.join(missing)} missing: a scale states them.")
    if settings.get("precision") == "auto":
        settings["precision"] = precision
    return ProtocolSpec(settings=settings, **raw)


def completed(name: str, named: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run's spec, with those that it leaves out."""
    return {**read(name).get("neutral", {}), **named}


def checked(name: str, key: str, value: Any, place: str) -> Any:
    """A setting of a protocol in its type and range, as JSON has it."""
    found = coerce(SETTINGS.get(f"{name}.{key}", SETTINGS[key]), value, place)
    return list(found) if isinstance(found, tuple) else found
