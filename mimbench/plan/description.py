"""Rows in a few words."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mimbench import registry
from mimbench.config.schema import ONLY, Recipe, Row
from mimbench.plan.pairing import edges

SHOWN = 4  # values that distinguish a row


def descriptions(rows: Iterable[Row]) -> dict[str, str]:
    """By row. Rows that would read the same also say in which values they differ: `..., masker.ratio 0.4`."""
    alike = defaultdict(list)
    for row in rows:
        alike[describe(row)].append(row)
    return {name: text for words, group in alike.items() for name, text in _distinguished(words, group)}


def _distinguished(words: str, group: list[Row]) -> Iterator[tuple[str, str]]:
    values = {row.name: dict(_values(row.recipe)) for row in group}
    keys = dict.fromkeys(key for of_row in values.values() for key in of_row)
    differing = [key for key in keys if len({str(of_row.get(key)) for of_row in values.values()}) > 1]
    for name, of_row in values.items():
        own = [f"{key} {of_row[key]}" for key in differing if key in of_row]
        more = [f"{len(own) - SHOWN} more"] if len(own) > SHOWN else []
        yield name, ", ".join([words, *own[:SHOWN], *more])


def _values(recipe: Recipe) -> Iterator[tuple[str, Any]]:
    """By dotted path, as a row states them; nothing of a row that trains nothing."""
    whole = dataclasses.asdict(recipe) if recipe.pretrain else {}
    if whole and recipe.flat:  # its one term is written without a name
        whole |= whole.pop("terms")[ONLY]
    return _flat(whole)


def _flat(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, dict):
            yield from _flat(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", inner


def describe(row: Row) -> str:
    """A row in a few words: tokenizer, masking, loss, steps."""
    recipe = row.recipe
    if recipe.weights is not None:
        return f"checkpoint {Path(recipe.weights).name}"
    if recipe.finetuned is not None:
        return f"fine-tuned encoder of {recipe.finetuned}"
    if not recipe.pretrain:
        return "no pre-training"
    where = getattr(registry.build("masker", recipe.masker), "predict", "masked")
    masker = "no" if recipe.masker["type"] == "none" else recipe.masker["type"]
    if recipe.flat:
        term = recipe.terms[ONLY]
        over = f"{where} of the masked" if isinstance(where, float) else where
        what = f"{term.tokenizer['type']}, {masker} masking, {term.loss['type']} over {over} positions"
    else:
        terms = (f"{name}: {term.tokenizer['type']}, {term.loss['type']}" for name, term in recipe.terms.items())
        what = "; ".join([*terms, f"{masker} masking"])
    built_on = "".join(f", {role} {name}" for role, name in edges(recipe).items())
    return f"{what}, {recipe.schedule.steps} steps{built_on}"
