"""`show recipe`: a row's resolved recipe, and where each value came from."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mimbench import registry
from mimbench.config.by_row import BUDGET
from mimbench.config.schema import Grid, Recipe, Row, as_spec
from mimbench.config.terms import OtherEncoder, TeacherConfig
from mimbench.plan.graph import objective_spec

FROM_ROW = re.compile(r"^(.*): (rows\.\d+)\.$")
LONGEST = 36  # a value that is longer does not widen its column


def recipe_lines(grid: Grid, name: str) -> Iterator[str]:
    row = next(row for row in grid.rows if row.name == name)
    values = dict(flattened(written(row.recipe)))
    yield f"{row.label}: row {row.name} of {grid.name} at scale {grid.scale}"
    wide = max(map(len, values))
    texts = {key: _text(value) for key, value in values.items()}
    room = max(len(text) for text in texts.values() if len(text) <= LONGEST)
    section = ""
    for key, text in texts.items():
        if key.partition(".")[0] != section:
            section = key.partition(".")[0]
            yield ""
        yield f"{key:{wide}}  {text:{room}}  {source_of(key, row, grid)}"


def written(recipe: Recipe) -> dict[str, Any]:
    """As one would write it in YAML, nothing left to defaults."""
    data = {"data": as_spec(recipe.data)}
    if recipe.weights is not None or recipe.finetuned is not None:
        from_elsewhere = {"weights": recipe.weights} if recipe.weights is not None else {"finetuned": recipe.finetuned}
        return {"pretrain": from_elsewhere, "encoder": recipe.stated, **data}
    if not recipe.pretrain:
        return {"pretrain": False, "encoder": as_spec(recipe.encoder), **data}
    found = {"pretrain": True, **objective_spec(recipe)}
    for key, other in (("start", recipe.start), ("teacher", recipe.teacher)):
        if other is not None:
            found[key] = _stated(other)
    found |= {"encoder": as_spec(recipe.encoder), **data, "schedule": as_spec(recipe.schedule)}
    if any(registry.build("tokenizer", term.tokenizer).trained for term in recipe.terms.values()):
        found["tokenizer_training"] = training = as_spec(recipe.tokenizer_training)
        if (teacher := recipe.tokenizer_training.teacher) is not None:
            training["teacher"] = _stated(teacher)
    return found


def _stated(other: OtherEncoder | TeacherConfig) -> dict[str, Any]:
    return {name: value for name, value in as_spec(other).items() if value is not None}


def flattened(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys, and values that are no mappings."""
    for key, inner in value.items():
        if isinstance(inner, dict) and inner:
            yield from flattened(inner, f"{prefix}{key}.")
        elif not key.endswith("_version") and (key != "version" or not prefix):
            yield f"{prefix}{key}", inner


def source_of(key: str, row: Row, grid: Grid) -> str:
    """`base`, `scale`, `row`, `--set`, `budget`, `search` or `default`, and the file."""
    source = next((row.sources[name] for name in _names(key) if name in row.sources), None)
    if source is None:
        return "default"
    if source.startswith("--set"):
        return "--set"
    if source == BUDGET:
        return "budget  equal FLOPs of training"
    path, _, place = source.partition(": ")
    file = " ".join([Path(path).name, place.strip(".")]).strip()
    if FROM_ROW.match(source):
        return f"row     {file}"
    if path == grid.scale_file:
        return f"scale   {file}"
    return f"{'search' if Path(path).parent.name == 'searched' else 'base':7} {file}"


def _names(key: str) -> Iterator[str]:
    """Under which it may have been written: a term takes what it does not say from the recipe; steps from a multiplier."""
    if key == "schedule.steps":
        yield "schedule.steps_multiplier"
    yield key
    if key.startswith("terms."):
        yield key.split(".", 2)[2]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
