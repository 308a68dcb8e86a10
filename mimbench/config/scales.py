"""A scale file: sizes, data and protocol settings for every recipe. It may change another one, by `base:`."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from mimbench import registry
from mimbench.config.coerce import Checked, dataclass_from
from mimbench.config.merge import Layers, find, for_other_masks, put, read_yaml
from mimbench.config.ranges import Count
from mimbench.config.schema import PART_KINDS, RECIPE_KEYS, DataConfig, Evaluation
from mimbench.errors import UserError, check_known
from mimbench.store.files import data_name

T = TypeVar("T")
Layer = dict[str, Any]  # the part of a file that goes into recipes


@dataclass(frozen=True)
class ScaleFile(Checked):
    """A scale as written, beside what it sets in every recipe."""

    base: str | None = None  # the scale that it changes
    scale: str | None = None  # its key in the recipes' `scales:`; None: the base's, or its name
    note: str = ""
    note_on_data: str = ""  # of its own images: it says nothing of others
    threads: Count = 1
    parts: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)  # kind -> type -> arguments
    evaluation: Evaluation = field(default_factory=Evaluation)
    protocols: dict[str, dict[str, Any]] = field(default_factory=dict)  # settings by protocol

    def check(self, place: str) -> None:
        for kind, by_type in self.parts.items():
            check_known(f"{place} parts", "kind of part", kind, PART_KINDS)
            for name in by_type:
                registry.part_class(kind, name, f"{place} parts.{kind}")


@dataclass(frozen=True)
class Scale:
    """What a scale sets, and the images it does so for."""

    path: Path
    file: ScaleFile
    layer: Layer
    data: str | None = None  # part of its name: the images, where they are others than its own

    @property
    def in_recipes(self) -> str:
        """The key of its values in the recipes' `scales:`."""
        return self.file.scale or self.path.stem

    @property
    def name(self) -> str:
        return self.path.stem if self.data is None else f"{self.path.stem}-{self.data}"

    def on(self, data: str) -> Scale:
        """The same sizes on other images. Masks are those of the same data set."""
        before = self.file.evaluation
        if data == before.data.name:
            return self
        evaluation = replace(before, data=replace(before.data, name=data), segmentation_data=None)
        layer = copy.deepcopy(self.layer)
        put(layer, "data.name", data, str(self.path), RECIPE_KEYS)
        protocols = for_other_masks(self.file.protocols, {})
        file = replace(self.file, note_on_data="", evaluation=evaluation, protocols=protocols)
        return Scale(self.path, file, layer, data_name(data))

    def note_for(self, data_of_rows: Collection[str]) -> str:
        """What it says of itself, and of its own images where --set names no others."""
        own = self.layer.get("data", {}).get("name", DataConfig.name)
        on_data = self.file.note_on_data if all(name == own for name in data_of_rows) else ""
        return f"{on_data.strip()} {self.file.note.strip()}".strip()


def read_scale(path: Path) -> Scale:
    """A scale file, merged over the one that its `base:` names."""
    raw = read_yaml(path)
    file, layer = split_layer(raw, ScaleFile, f"{path}:")
    if file.base is None:
        return Scale(path, file, layer)
    base_path = find(file.base, "scales", path)
    below = read_yaml(base_path)
    if split_layer(below, ScaleFile, f"{base_path}:")[0].base is not None:
        raise UserError(f"{path}: base: '{file.base}' has a base itself ({base_path}); allowed: a scale without one.")
    merged = Layers()
    merged.add({"scale": base_path.stem, **below}, f"{base_path}: ")
    merged.add(raw, own := f"{path}: ")
    if "note_on_data" not in raw and own in map(merged.sources.get, ("data.name", "evaluation.data.name")):
        merged.value.pop("note_on_data", None)
    whole, layer = split_layer(merged.value, ScaleFile, f"{path}:")
    if own in map(merged.sources.get, ("evaluation.data.name", "evaluation.segmentation_data")):
        whole = replace(whole, protocols=for_other_masks(whole.protocols, file.protocols))
    return Scale(path, whole, layer)


def with_known_keys(raw: Layer, allowed: Collection[str], place: str) -> Layer:
    for key in raw:
        check_known(place, "key", key, allowed)
    return raw


def split_layer(raw: Layer, cls: type[T], place: str) -> tuple[T, Layer]:
    """What a file says beside the recipe, and its layer of the recipe."""
    own = [item.name for item in dataclasses.fields(cls)]  # type: ignore[arg-type]
    with_known_keys(raw, (*own, *RECIPE_KEYS), place.removesuffix(":"))
    beside = {k: v for k, v in raw.items() if k not in RECIPE_KEYS}
    return dataclass_from(cls, beside, place), {k: v for k, v in raw.items() if k in RECIPE_KEYS}
