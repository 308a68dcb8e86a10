"""The ruler: a fixed list of protocols, each frozen in a YAML file, versioned and fingerprinted.

A protocol's settings are the same for every row of a grid; they depend on the scale alone. The fingerprint covers name,
version and settings: where it differs, two numbers may not stand in one column.
"""

from __future__ import annotations

import functools
import importlib.resources
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from mimbench.config.coerce import coerce
from mimbench.errors import UserError, unknown
from mimbench.store.files import fingerprint

NAMES = ("finetune", "linear_probe", "knn", "segmentation")


MAY_BE_NONE: dict[str, Any] = {"clip": float, "crop": int, "resize": list[int]}  # and what they are otherwise

# What a setting must be. mmsegmentation's neck has these two sets of scales, and takes them in this order alone.
RESCALES = ([4, 2, 1, 0.5], [2, 1, 0.5, 0.25])
Rule = tuple[str, Callable[[Any], bool]]
AT_LEAST_ONE: Rule = ("at least 1", lambda found: found >= 1)
NOT_NEGATIVE: Rule = ("at least 0", lambda found: found >= 0)
NOT_ALL: Rule = ("at least 0 and less than 1", lambda found: 0 <= found < 1)
ALLOWED: dict[str, Rule] = {
    "learning_rates": (  # each trains in a folder of its own, named by six digits
        "greater than 0, and different in their first six digits",
        lambda found: min(found) > 0 and len({f"{rate:g}" for rate in found}) == len(found),
    ),
    "min_lr_ratio": ("between 0 and 1, a share of the learning rate", lambda found: 0 <= found <= 1),
    "epochs": AT_LEAST_ONE,
    "batch": AT_LEAST_ONE,
    "segmentation.batch": ("at least 2, for batch norm", lambda found: found >= 2),
    "warmup": ("between 0 and 1, a share of the steps", lambda found: 0 <= found <= 1),
    "weight_decay": NOT_NEGATIVE,
    "betas": (
        "two numbers of at least 0 and less than 1",
        lambda found: len(found) == 2 and all(0 <= beta < 1 for beta in found),
    ),
    "layer_decay": ("greater than 0 and at most 1", lambda found: 0 < found <= 1),
    "drop_path": NOT_ALL,
    "label_smoothing": NOT_ALL,
    "clip": ("greater than 0, or null for none", lambda found: found > 0),
    "neighbours": ("at least 1 each", lambda found: min(found) >= 1),
    "temperature": ("at least 0.0125, for exp(1 / temperature) to fit 32 bits", lambda found: found >= 0.0125),
    "crop": ("at least 1, or null for the size of the data", lambda found: found >= 1),
    "resize": (
        "two sides of at least 1 pixel, or null for none",
        lambda found: len(found) == 2 and min(found) >= 1,
    ),
    "first_class_weight": NOT_NEGATIVE,
    "rescales": (" or ".join(map(str, RESCALES)), lambda found: found in RESCALES),
    "channels": AT_LEAST_ONE,
    "auxiliary_channels": AT_LEAST_ONE,
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

    @property
    def fingerprint(self) -> str:
        return fingerprint({"name": self.name, "version": self.version, "settings": self.settings})


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((importlib.resources.files(__name__) / f"{name}.yaml").read_text(encoding="utf-8"))


def load(
    name: str, scale: str, place: str, overrides: dict[str, Any] | None = None, precision: str = "fp32"
) -> ProtocolSpec:
    """A protocol at a scale. `overrides` come from --set protocols.NAME.KEY=VALUE and change the fingerprint."""
    if name not in NAMES:
        raise unknown(place, "protocol", name, NAMES)
    raw = read(name)
    scales = raw.pop("scales")
    if scale not in scales:
        raise UserError(
            f"{place}: the protocol '{name}' has no settings for scale '{scale}'. It has: {', '.join(scales)}."
        )
    settings = {**raw.pop("settings"), **scales[scale]}
    for key, value in (overrides or {}).items():
        if key not in settings:
            raise unknown("--set", f"setting of protocol '{name}'", key, settings)
        where = f"--set protocols.{name}.{key}"
        settings[key] = _like(settings[key], value, MAY_BE_NONE.get(key), where)
        check_setting(name, key, settings[key], where)
    if settings.get("precision") == "auto":
        settings["precision"] = precision
    return ProtocolSpec(settings=settings, **raw)


def check_setting(name: str, key: str, found: Any, place: str) -> None:
    """Refuse what a protocol could not work with; a setting that is not in the table has its type alone to keep."""
    rule = ALLOWED.get(f"{name}.{key}") or ALLOWED.get(key)
    if rule is None or found is None:
        return
    words, allows = rule
    if not allows(found):
        raise UserError(f"{place}: must be {words}, not {found}.")


def _like(default: Any, value: Any, optional: Any, place: str) -> Any:
    """`value` in the type of the default: a list keeps the type of its elements.

    `optional`: the type of a setting that may also be None.
    """
    if value is None and optional:
        return None
    if isinstance(default, list):
        element: Any = functools.reduce(operator.or_, map(type, default))  # [2, 1, 0.5] holds integers and others
        found = [coerce(element, v, f"{place}.{i}") for i, v in enumerate(coerce(list[Any], value, place))]
        if not found:
            raise UserError(f"{place}: must hold at least one value.")
        return found
    if default is None:
        return coerce(optional, value, place)
    if default in ("auto", "fp32", "bf16"):
        return coerce(Literal["auto", "fp32", "bf16"], value, place)
    return coerce(type(default), value, place)
