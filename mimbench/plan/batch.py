"""Is a batch large enough for what compares its images?"""

from __future__ import annotations

from typing import Any

from mimbench.config.schema import Recipe
from mimbench.errors import UserError
from mimbench.parts import PatchGrid


def check_batch(recipe: Recipe, parts: dict[str, Any], title: dict[str, str], width: int, place: str) -> None:
    """`parts`: of one term; `width`: of its targets."""
    batch, patches = recipe.schedule.batch, PatchGrid.of(recipe.data.size, recipe.encoder.patch).count
    whole = [kind for kind, part in parts.items() if getattr(part, "whole_batch", False)]
    if whole and batch < 2:
        raise UserError(f"{place}: {title[whole[0]]} compares the images of a batch, and schedule.batch is {batch}.")
    balanced = "tokenizer" in whole and parts["tokenizer"].target == "distribution"
    if balanced and width > batch * patches:
        raise UserError(f"{place}: {title['tokenizer']} balances {width} prototypes over the batch, and a step has "
                        f"{batch * patches} patches ({batch} images of {patches}): at most as many prototypes.")  # fmt: skip
