"""The data sets of a run's spec, which identifies files by their manifest: where they lie now."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mimbench.config.schema import DataConfig, from_spec
from mimbench.data.sources import opened
from mimbench.errors import UserError


def data_of(spec: dict[str, Any]) -> DataConfig:
    """With the place of its images as name."""
    data = spec["recipe"]["data"] if "recipe" in spec else spec["data"]
    config = from_spec(DataConfig, data)
    if "manifest" not in data:
        return config
    found = replace(config, name=_place(spec, data["manifest"]))
    _check_same(found.name, opened(found.name).facts(found)["manifest"], data["manifest"])
    return found


def masks_of(spec: dict[str, Any]) -> str:
    """The data set with masks; empty for an evaluation without."""
    name, manifest = spec.get("segmentation_data", ""), spec.get("segmentation_manifest")
    if not manifest or manifest not in spec.get("places", {}):
        return str(name)
    place = _place(spec, manifest)
    _check_same(place, opened(place).segmentation_facts()["segmentation_manifest"], manifest)
    return place


def _place(spec: dict[str, Any], manifest: Any) -> str:
    return str(spec["places"][manifest])


def _check_same(place: str, now: str, planned: str) -> None:
    if now != planned:
        raise UserError(
            f"{place}: its files have changed since the run was planned ({now}, not {planned}). Run the grid again."
        )
