"""The training of tokenizers: do its settings suit them? Before any compute."""

from __future__ import annotations

from typing import Any

from mimbench import registry
from mimbench.config.schema import Recipe
from mimbench.errors import UserError
from mimbench.parts import PatchGrid


def needs_teacher(tokenizer: dict[str, Any]) -> bool:
    """Whether its training needs a frozen encoder to learn from."""
    return _says(registry.build("tokenizer", tokenizer), "needs_teacher")


def _says(part: Any, declared: str) -> bool:
    """Only tokenizers that are trained have these declarations."""
    return bool(part.trained and getattr(part, declared, False))


def check_tokenizer_training(recipe: Recipe, place: str) -> None:
    training, patch = recipe.tokenizer_training, recipe.encoder.patch
    grid = PatchGrid.of(recipe.data.size, patch)
    built = {term.tokenizer["type"]: registry.build("tokenizer", term.tokenizer) for term in recipe.terms.values()}
    taught = [name for name, part in built.items() if _says(part, "needs_teacher")]
    if taught and training.teacher is None:
        raise UserError(f"{place}: tokenizer '{taught[0]}' learns from a teacher, and none is named. Add "
                        "`tokenizer_training: {teacher: {row: NAME}}`, or `{weights: FILE}` in place of the row.")  # fmt: skip
    if training.teacher is not None and not taught:
        names = " and ".join(f"'{name}'" for name in built)
        raise UserError(
            f"{place}: tokenizer_training.teacher: tokenizer {names} learns from none. Write `teacher: null`."
        )
    if taught and training.crop is not None:
        raise UserError(f"{place}: tokenizer_training.crop: must be null: the teacher of tokenizer '{taught[0]}' sees whole "
                        f"images, not crops of {training.crop} pixels.")  # fmt: skip
    trained = any(part.trained for part in built.values())
    if trained and training.crop is not None and training.crop > recipe.data.size:
        raise UserError(
            f"{place}: tokenizer_training.crop: must be at most data.size, {recipe.data.size}, not {training.crop}."
        )
    vectors = training.batch * grid.count
    for name, part in built.items():
        if _says(part, "begins_with_vectors") and (codes := part.width(grid)) > vectors:
            raise UserError(f"{place}: tokenizer '{name}' begins with {codes} of the {vectors} vectors of a step. Give it fewer codes, "
                            "or raise tokenizer_training.batch.")  # fmt: skip
    if training.crop is not None and training.crop % patch:
        raise UserError(f"{place}: tokenizer_training.crop: {training.crop} is not a multiple of the patch, {patch}.")
