"""What a decoder and a teacher work on: the encoder's features, another term's predictions, the patches that are hidden."""

from __future__ import annotations

from typing import Any

from mimbench.config.schema import ONLY, Recipe
from mimbench.config.terms import TermConfig
from mimbench.errors import UserError


def width_read(recipe: Recipe, name: str, widths: dict[str, int]) -> int:
    """Of the features that a term's decoder reads."""
    after = recipe.terms[name].decoder.get("after")
    return recipe.encoder.dim if after is None else widths[after]


def check_features(
    recipe: Recipe, name: str, decoder: Any, masker: Any, title: dict[str, str], widths: dict[str, int], place: str
) -> None:
    """`title`: how an error names each part; `widths`: of the predictions by term."""
    read, term = width_read(recipe, name, widths), recipe.terms[name]
    if getattr(decoder, "keeps_width", False) and widths[name] != read:
        raise UserError(f"{place}: {title['decoder']} predicts as many values as the features it reads have, {read}, and "
                        f"{title['tokenizer']} gives {widths[name]}.")  # fmt: skip
    if "after" not in term.decoder:
        return
    other, where = recipe.terms[term.decoder["after"]], f"{place}.decoder.after: '{term.decoder['after']}'"
    for level, who in ((term.level, "this term"), (other.level, "that term")):
        if level != "patch":
            raise UserError(f"{where}: both terms need level patch, and {who} has level {level}.")
    views, theirs = (found.views or tuple(recipe.views) or (ONLY,) for found in (term, other))
    if not set(views) <= set(theirs):
        raise UserError(
            f"{where}: it does not predict view '{next(iter(set(views) - set(theirs)))}', which this term does."
        )
    if decoder.restores_grid:
        raise UserError(
            f"{where}: {title['decoder']} fills the gaps between visible patches, and predictions leave none."
        )
    if hasattr(masker, "blocks"):
        raise UserError(f"{where}: {title['masker']} gives blocks, which may predict a patch twice.")


def check_hidden(recipe: Recipe, term: TermConfig, tokenizer: Any, title: str, place: str) -> None:
    """For a teacher that sees the hidden patches alone."""
    where = f"{place}: teacher.sees 'hidden'"
    if recipe.teacher is not None and recipe.teacher.row is not None:
        raise UserError(f"{where} needs a moving average; a teacher of another row sees all. Use sees: all.")
    if recipe.encoder.masking != "drop":
        raise UserError(f"{where} needs encoder.masking 'drop', not '{recipe.encoder.masking}'.")
    if getattr(tokenizer, "needs_head", False) or getattr(tokenizer, "whole_batch", False):
        raise UserError(f"{where}: {title} compares all patches, and the visible ones are missing. Use sees: all.")
    if recipe.masker.get("predict", "masked") == "all":
        raise UserError(f"{where} gives targets at hidden patches only, and the masker has predict: all.")
    for view in term.targets or term.views or tuple(recipe.views):
        if view in recipe.views and not recipe.views[view].masked:
            raise UserError(f"{where}: view '{view}' has masked: false, so nothing of it is hidden.")
