"""Is a batch large enough for what compares its images?"""

from __future__ import annotations

from typing import Any

from mimbench.config.schema import Recipe
from mimbench.errors import UserError
from mimbench.parts import Level, PatchGrid

PER_IMAGE = 64  # prototypes for each image, where images are spread over them; official DINOv2 (ViT-L/16): 65,536 for 32 x 64 images, 32


def check_batch(
    recipe: Recipe, parts: dict[str, Any], title: dict[str, str], width: int, level: Level, place: str
) -> None:
    """`parts`: of one term; `width`: of its targets."""
    batch, patches = recipe.schedule.batch, PatchGrid.of(recipe.data.size, recipe.encoder.patch).count
    whole = [kind for kind, part in parts.items() if getattr(part, "whole_batch", False)]
    if whole and batch < 2:
        raise UserError(f"{place}: {title[whole[0]]} compares the images of a batch, and schedule.batch is {batch}.")
    balanced = "tokenizer" in whole and parts["tokenizer"].target == "distribution"
    by_image = level == "image" or getattr(parts["tokenizer"], "by_place", False)
    samples, most = (
        (f"{batch} images", PER_IMAGE * batch) if by_image else (f"{batch * patches} patches", batch * patches)
    )
    if balanced and width > most:
        why = f"{PER_IMAGE} an image" if by_image else "as many as patches"
        raise UserError(f"{place}: {title['tokenizer']} spreads the {samples} of a step evenly over {width} prototypes: at most "
                        f"{most}, {why}. Give it fewer, or raise schedule.batch.")  # fmt: skip
