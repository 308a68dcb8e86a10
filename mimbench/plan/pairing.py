"""Does it fit together? Parts, sizes and protocols that cannot work together raise before any compute."""

from __future__ import annotations

from typing import Any

import torch

from mimbench import registry
from mimbench.config.schema import PART_KINDS, EncoderConfig, Grid, Recipe, Row
from mimbench.data.sources import Sources
from mimbench.errors import UserError
from mimbench.parts import PatchGrid
from mimbench.protocols import ProtocolSpec


def check_protocols(columns: list[ProtocolSpec], grid: Grid, sources: Sources) -> None:
    """The protocols' settings against the data of the evaluation."""
    evaluation = grid.evaluation
    size = evaluation.data.size
    for column in columns:
        setting = f"--set protocols.{column.name}"
        # positions are not interpolated: the encoder is evaluated at the size of its pre-training
        if column.settings.get("crop") not in (None, size):
            raise UserError(f"{setting}.crop: must be {size}, the size of the pre-training images, or null.")
        if "neighbors" in grid.settings.get(column.name, {}):  # the defaults are meant for sets of all sizes
            most = max(column.settings["neighbors"])
            available = evaluation.labeled or sources(evaluation.data.name).counts()["labeled"]
            if most > available:
                raise UserError(
                    f"{setting}.neighbors: must be at most {available} each, "
                    f"the labeled images of scale {grid.scale}, not {most}."
                )


def check_row(row: Row, columns: list[ProtocolSpec], grid: Grid, sources: Sources) -> None:
    """A row's parts against one another, its data and the protocols."""
    recipe, place = row.recipe, f"{grid.config}: row '{row.name}'"
    size = grid.evaluation.data.size
    if recipe.data.size != size:
        raise UserError(f"{place}: pre-trains at {recipe.data.size} px but is evaluated at {size} px.")
    side = recipe.data.size // recipe.encoder.patch
    if recipe.pretrain:
        parts = {kind: registry.build(kind, getattr(recipe, kind)) for kind in PART_KINDS}
        title = {kind: f"{kind} '{getattr(recipe, kind)['type']}'" for kind in PART_KINDS}
        _check_parts(parts, title, recipe.encoder.masking, place)
        _check_images(recipe, sources, place)
        _check_on_grid(parts, title, recipe.encoder, side, place)
    for column in columns:
        smallest = min(column.settings.get("rescales", [1]))  # of a feature pyramid's maps
        if side * smallest < 1:
            raise UserError(
                f"{place}: encoder.patch: {recipe.encoder.patch} pixels give a grid of {side} x {side}, and protocol "
                f"'{column.name}' needs at least {round(1 / smallest)} x {round(1 / smallest)}."
            )


def _check_parts(parts: dict[str, Any], title: dict[str, str], masking: str, place: str) -> None:
    """What the parts declare of themselves."""
    target, expects = parts["tokenizer"].target, parts["loss"].expects
    if target != expects:
        raise UserError(
            f"{place}: {title['tokenizer']} gives {target}, {title['loss']} expects {expects}."
            f"{_fitting('loss', 'expects', target)}"
        )
    if masking == "drop" and not parts["decoder"].restores_grid:
        raise UserError(
            f"{place}: encoder.masking 'drop' encodes only visible patches; {title['decoder']} does not restore the grid."
            f"{_fitting('decoder', 'restores_grid', True)} Or use encoder.masking 'token'."
        )
    if masking == "drop" and not parts["masker"].constant_count:
        raise UserError(
            f"{place}: encoder.masking 'drop' needs the same number of masked patches in every image; {title['masker']} "
            f"as configured varies it.{_fitting('masker', 'constant_count', True)} Or use encoder.masking 'token'."
        )


def _fitting(kind: str, attribute: str, value: Any) -> str:
    """The registered parts whose class declares what is needed."""
    classes = sorted(registry.REGISTRIES[kind].module_dict.items())
    names = [name for name, cls in classes if getattr(cls, attribute, None) == value]
    return f" Allowed: {', '.join(names)}." if names else ""


def _check_images(recipe: Recipe, sources: Sources, place: str) -> None:
    training, patch = recipe.tokenizer_training, recipe.encoder.patch
    for key, count in (("data", recipe.data.images), ("tokenizer_training", training.images)):
        sources(recipe.data.name).check_counts({"train": count}, f"{place}: {key}.images")
    if training.crop is not None and training.crop % patch:
        raise UserError(f"{place}: tokenizer_training.crop: {training.crop} is not a multiple of the patch, {patch}.")


def _check_on_grid(parts: dict[str, Any], title: dict[str, str], encoder: EncoderConfig, side: int, place: str) -> None:
    """Draw masks and build the tokenizer once: what depends on the number of patches fails here."""
    masker, tokenizer = parts["masker"], parts["tokenizer"]
    try:
        masks = masker(8, (side, side), torch.Generator().manual_seed(0))
        if tokenizer.trained:
            with torch.random.fork_rng(devices=[]):  # on the device "meta" random numbers would import half of torch
                tokenizer.build(PatchGrid(side, side, encoder.patch))
    except (ValueError, RuntimeError, MemoryError) as error:  # the last two for a size that exceeds memory
        raise UserError(f"{place}: {title['masker']} or {title['tokenizer']} fails in this size: {error}") from error
    if getattr(masker, "predict", "masked") == "masked" and not masks.any():
        raise UserError(f"{place}: {title['masker']} masks nothing, so it needs predict: all.")
    if encoder.masking == "drop" and masks.all():
        raise UserError(f"{place}: {title['masker']} masks every patch; encoder.masking 'drop' needs visible ones.")
