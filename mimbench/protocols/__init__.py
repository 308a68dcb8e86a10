"""The ruler: a fixed list of protocols, each frozen in a YAML file, versioned and fingerprinted.

A protocol's settings are the same for every row of a grid; they depend on the scale alone. The fingerprint covers name,
version and settings: where it differs, two numbers may not stand in one column.
"""

from __future__ import annotations

import importlib.resources
from dataclasses import dataclass
from typing import Any

import yaml

from mimbench.errors import UserError, unknown
from mimbench.store import fingerprint

NAMES = ("finetune", "linear_probe", "knn", "segmentation")


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
        if not isinstance(value, type(settings[key])) and settings[key] is not None:
            raise UserError(f"--set protocols.{name}.{key}: must be like {settings[key]!r}, not {value!r}.")
        settings[key] = value
    if settings.get("precision") == "auto":
        settings["precision"] = precision
    return ProtocolSpec(settings=settings, **raw)
