"""`steps:` of a grid, written by `mimbench budget`: how long each row trains, so that all train for equal FLOPs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mimbench.config.schema import Row
from mimbench.errors import UserError, check_known

BUDGET = "budget of FLOPs: "  # the source of what it sets
LENGTH = ("steps", "steps_multiplier")  # keys of a schedule


def states(layer: Mapping[str, Any], *keys: str) -> bool:
    """Whether a layer of a recipe has one of these keys of the schedule."""
    schedule = layer.get("schedule")
    return isinstance(schedule, dict) and any(key in schedule for key in keys)


def row_with_budget(budget: str, named: str | None, reference: str, names: Collection[str], path: Path) -> str | None:
    """The row whose FLOPs are the budget of all; None where each states its steps."""
    if budget == "steps":
        return None
    if named is not None:
        check_known(f"{path}: budget_row", "row", named, names)
    return named or reference


def with_steps(rows: tuple[Row, ...], steps: Mapping[str, int], sets: Collection[Mapping[str, Any]]) -> tuple[Row, ...]:
    """Each row with its steps, and a warm-up of the same share of them as before; --set has the last word."""
    if any(states(layer, *LENGTH) for layer in sets):
        return rows
    keeps_warmup = any(states(layer, "warmup") for layer in sets)
    return tuple(_lasting(row, steps[row.name], keeps_warmup) if row.name in steps else row for row in rows)


def _lasting(row: Row, steps: int, keeps_warmup: bool) -> Row:
    before = row.recipe.schedule
    warmup = min(before.warmup, steps) if keeps_warmup else round(before.warmup * steps / before.steps)
    schedule = replace(before, steps=steps, warmup=warmup)
    sources = {**row.sources, **dict.fromkeys(("schedule.steps", "schedule.warmup"), BUDGET)}
    return replace(row, recipe=replace(row.recipe, schedule=schedule), sources=sources)


def checked_steps(
    written: Mapping[str, Mapping[str, int]], scale: str, rows: tuple[Row, ...], place: str, command: str
) -> Mapping[str, int]:
    """Those of the scale, one for each row that gets its length from the budget."""
    names = [row.name for row in rows if row.budgeted]
    steps = written.get(scale, {})
    for name in steps:
        check_known(f"{place}: steps.{scale}", "row whose steps the budget sets", name, names)
    missing = [name for name in names if name not in steps]
    if missing:
        raise UserError(
            f"{place}: steps.{scale}: none for row '{missing[0]}'{' and others' if len(missing) > 1 else ''}, and budget is "
            f"flops. Run `{command}`, which writes them."
        )
    return steps
