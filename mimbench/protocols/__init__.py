"""The ruler: a fixed list of protocols, each frozen in a YAML file, versioned and fingerprinted.

A protocol's settings are the same for every row of a grid; they depend on the scale alone. The fingerprint covers name,
version and settings: where it differs, two numbers may not stand in one column.
"""

from __future__ import annotations

import importlib.resources
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from mimbench.coerce import coerce
from mimbench.errors import UserError, unknown
from mimbench.files import fingerprint

NAMES = ("finetune", "linear_probe", "knn", "segmentation")


MAY_BE_NONE: dict[str, Any] = {"clip": float, "crop": int, "resize": list[int]}  # and what they are otherwise


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
        settings[key] = _like(settings[key], value, MAY_BE_NONE.get(key), f"--set protocols.{name}.{key}")
    if settings.get("precision") == "auto":
        settings["precision"] = precision
    return ProtocolSpec(settings=settings, **raw)


def _like(default: Any, value: Any, optional: Any, place: str) -> Any:
    """`value` in the type of the default: a list keeps the type of its elements, a number must not be negative.

    `optional`: the type of a setting that may also be None.
    """
    if value is None and optional:
        return None
    if isinstance(default, list):
        found = [coerce(type(default[0]), v, f"{place}.{i}") for i, v in enumerate(coerce(list[Any], value, place))]
        if not found:
            raise UserError(f"{place}: must hold at least one value.")
    elif default is None:
        found = coerce(optional, value, place)
    elif default in ("auto", "fp32", "bf16"):
        return coerce(Literal["auto", "fp32", "bf16"], value, place)
    else:
        found = coerce(type(default), value, place)
        if type(default) is int and found < 1:
            raise UserError(f"{place}: must be at least 1, not {found}.")
    if any(v < 0 for v in (found if isinstance(found, list) else [found]) if not isinstance(v, bool)):
        raise UserError(f"{place}: must not be negative.")
    return found
