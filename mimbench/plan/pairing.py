"""Does it fit together? Parts, sizes and protocols that cannot work together raise before any compute."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mimbench.config.schema import EncoderConfig, Grid, Recipe, Row, as_spec
from mimbench.config.swin import check_windows
from mimbench.data.sources import Sources
from mimbench.errors import UserError, unknown
from mimbench.plan.terms import check_terms
from mimbench.plan.tokenizers import check_tokenizer_training
from mimbench.protocols import ProtocolSpec

OF_TOKENIZER = "tokenizer teacher"  # the role of the row that a tokenizer learns from
KEYS = {"finetuned": "pretrain.finetuned", OF_TOKENIZER: "tokenizer_training.teacher.row"}  # where a role is written


def check_protocols(columns: Iterable[ProtocolSpec], grid: Grid, sources: Sources) -> None:
    """The protocols' settings against the data of the evaluation."""
    evaluation = grid.evaluation
    for column in columns:
        setting = f"--set protocols.{column.name}"
        if (column.settings.get("mixup") or column.settings.get("cutmix")) and column.settings["batch"] % 2:
            raise UserError(f"{setting}.batch: must be even for mixup and cutmix, which mix pairs, not "
                            f"{column.settings['batch']}.")  # fmt: skip
        if "neighbors" in grid.settings.get(column.name, {}):  # the defaults are meant for sets of all sizes
            most = max(column.settings["neighbors"])
            available, what = column.settings.get("bank"), "the patches of its bank"
            if available is None:
                available = evaluation.labeled or sources(evaluation.data.name).counts()["labeled"]
                what = f"the labeled images of scale {grid.scale}"
            if most > available:
                raise UserError(f"{setting}.neighbors: must be at most {available} each, {what}, not {most}.")


def check_row(row: Row, columns: Iterable[ProtocolSpec], grid: Grid, sources: Sources) -> None:
    """A row's parts against one another, its data and the protocols."""
    recipe, place = row.recipe, f"{grid.config}: row '{row.name}'"
    size, patch = grid.evaluation.data.size, recipe.encoder.patch
    if size % patch:
        raise UserError(f"{place}: encoder.patch: {patch} does not divide evaluation.data.size, {size}.")
    if edges(recipe):
        ancestors(row, grid)
    if recipe.finetuned is not None and "finetune" not in grid.protocols:
        raise UserError(f"{place}: pretrain.finetuned: no row is fine-tuned; add finetune to the grid's protocols.")
    check_windows(recipe.encoder, size, "evaluation.data.size", place)
    if recipe.pretrain:
        check_tokenizer_training(recipe, place)
        check_windows(recipe.encoder, recipe.data.size, "data.size", place)
        _check_images(recipe, sources, place)
        check_terms(recipe, _teacher(recipe, grid), lambda: sources(recipe.data.name).classes(), place)
    for column in columns:
        if column.settings.get("pooling") in ("class_token", "both") and not recipe.encoder.class_token:
            raise UserError(f"{place}: its encoder has no class token, which protocol '{column.name}' reads; allowed: "
                            f"--set protocols.{column.name}.pooling=mean.")  # fmt: skip
        side = column.settings.get("crop") or size
        if side % patch:
            raise UserError(
                f"{place}: encoder.patch: {patch} does not divide the crop of protocol '{column.name}', {side}."
            )
        check_windows(recipe.encoder, side, f"the crop of protocol '{column.name}'", place)
        has_stages = len(recipe.encoder.stages) > 1
        if has_stages and column.settings.get("head") == "setr_pup":
            raise UserError(f"{place}: protocol '{column.name}': head 'setr_pup' reads maps of one width, and a Swin's stages "
                            f"have several; allowed: --set protocols.{column.name}.head=upernet.")  # fmt: skip
        pyramid = column.settings.get("head") == "upernet" and not has_stages  # which bring their own
        smallest = min(column.settings["rescales"]) if pyramid else 1  # of its maps
        if side // patch * smallest < 1:
            raise UserError(
                f"{place}: encoder.patch: {patch} pixels give a grid of {side // patch} x {side // patch}, and protocol "
                f"'{column.name}' needs at least {round(1 / smallest)} x {round(1 / smallest)}."
            )


def edges(recipe: Recipe) -> dict[str, str]:
    """The rows whose encoders a row builds on, by role; none without pre-training, but the one it is the fine-tuning of."""
    if recipe.finetuned is not None:
        return {"finetuned": recipe.finetuned}
    if not recipe.pretrain:
        return {}
    named = {
        "teacher": recipe.teacher.row if recipe.teacher else None,
        "start": recipe.start.row if recipe.start else None,
    }
    if recipe.tokenizer_training.teacher is not None:
        named[OF_TOKENIZER] = recipe.tokenizer_training.teacher.row
    return {role: name for role, name in named.items() if name is not None}


def _teacher(recipe: Recipe, grid: Grid) -> EncoderConfig:
    """The teacher's encoder: that of another row, or one like the student's."""
    other = recipe.teacher.row if recipe.teacher else None
    return recipe.encoder if other is None else grid.by_name[other].recipe.encoder


def architecture(encoder: EncoderConfig) -> dict[str, Any]:
    """An encoder without what matters in pre-training alone."""
    of_pretraining = ("masking", "zero_mask_token", "drop_path", "frozen_patches")
    return {key: value for key, value in as_spec(encoder).items() if key not in of_pretraining}


def differing(theirs: EncoderConfig, ours: EncoderConfig) -> list[str]:
    one, two = architecture(theirs), architecture(ours)
    return [f"{key} {one.get(key)} there, {two.get(key)} here" for key in {**two, **one}
            if one.get(key) != two.get(key) and key != "init"]  # fmt: skip


def other_references(grid: Grid) -> list[str]:
    """Where a row is to exceed a random encoder that is not its own, what it exceeds may be the architecture."""
    rows = [(row, grid.by_name[row.reference]) for row in grid.rows if row.improves and row.reference in grid.by_name]
    return [f"Row '{row.name}' is compared with row '{other.name}', another encoder ({'; '.join(found)})."
            for row, other in rows if other.recipe.untrained and
            (found := differing(other.recipe.encoder, row.recipe.encoder))]  # fmt: skip


def ancestors(row: Row, grid: Grid, below: tuple[str, ...] = ()) -> list[str]:
    """The rows that a row builds on, each before those that build on it."""
    rows, behind = grid.by_name, []
    for role, name in edges(row.recipe).items():
        key = KEYS.get(role, f"{role}.row")
        place = f"{grid.config}: row '{row.name}': {key}"
        if name not in rows:
            fitting = [other for other, its in rows.items() if role == "finetuned" or not its.recipe.untrained]
            error = unknown(place, "row", name, {*fitting} - {*below, row.name})
            raise UserError(
                f"{error} Add a row of that name, or name a checkpoint: weights instead of {key.rpartition('.')[2]}."
            )
        other = rows[name]
        if name in (*below, row.name):
            raise UserError(f"{place}: '{name}' builds on this row itself.")
        if other.recipe.untrained and role != "finetuned":
            raise UserError(f"{place}: '{name}' is not pre-trained; name a row that is.")
        if role in ("start", "finetuned") and (found := differing(other.recipe.encoder, row.recipe.encoder)):
            raise UserError(f"{place}: '{name}' has another encoder ({'; '.join(found)}); both need the same.")
        if other.recipe.data.size != row.recipe.data.size or other.recipe.encoder.patch != row.recipe.encoder.patch:
            raise UserError(f"{place}: '{name}' has another grid of patches ({_grid(other)} there, {_grid(row)} here).")
        behind += [*ancestors(other, grid, (*below, row.name)), name]
    return list(dict.fromkeys(behind))


def _grid(row: Row) -> str:
    return f"{row.recipe.data.size} px in patches of {row.recipe.encoder.patch}"


def _check_images(recipe: Recipe, sources: Sources, place: str) -> None:
    training = recipe.tokenizer_training
    for key, count in (("data", recipe.data.images), ("tokenizer_training", training.images)):
        sources(recipe.data.name).check_counts({"train": count}, f"{place}: {key}.images")
