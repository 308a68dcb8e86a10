"""A search for learning rates, as a grid: every searched row at each value, on unreported seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from mimbench.config.rates import at_rate
from mimbench.config.schema import Grid, Nested, Row
from mimbench.config.search import Search
from mimbench.errors import UserError
from mimbench.plan.pairing import edges

EXTENSIONS = 3  # of the values, at most
Scores = Mapping[str, Sequence[float | None]]  # by protocol, in the order of the values; None: it diverged


def tries(grid: Grid, search: Search, values: Sequence[float]) -> Grid:
    """What a row builds on stays as the grid has it without a search: all rows are searched at once."""
    searched = [row for row in grid.rows if row.searched]
    if not searched:
        raise UserError(
            f"{grid.config}: search: no row is left to it; each is not trained or states its own schedule.lr."
        )
    tried = [_try(row, lr, grid.config) for row in searched for lr in values]
    others = [replace(row, reference=row.name, improves=None) for row in _behind(searched, grid)]
    return replace(
        grid, name=f"{grid.name}-search", title=f"{grid.title}: learning rates",
        note=f"{grid.note} Values of schedule.lr, tried on unreported seeds to choose one for each row.".strip(),
        protocols=search.protocols, seeds=search.seeds, only_these_seeds=True, nested=Nested(), primary=None,
        rows=(*others, *tried), chosen=tuple(row.name for row in tried), budget_row=None,
        reference=tried[0].name, reference_label=tried[0].label,
    )  # fmt: skip


def name_of(row: str, lr: float) -> str:
    return f"{row}@{lr}"


def _try(row: Row, lr: float, place: str) -> Row:
    name = name_of(row.name, lr)
    rated = at_rate(row, lr, f"{place}: search.lr")
    return replace(rated, name=name, label=f"{row.label}, lr {lr:g}", reference=name, paper=None, improves=None)


def _behind(rows: Iterable[Row], grid: Grid) -> list[Row]:
    """The rows that these build on, and what those build on."""
    found: dict[str, Row] = {}
    waiting = [name for row in rows for name in edges(row.recipe).values()]
    while waiting:
        name = waiting.pop()
        if name in grid.by_name and name not in found:
            found[name] = grid.by_name[name]
            waiting += edges(found[name].recipe).values()
    return [row for row in grid.rows if row.name in found]


def best(scores: Scores) -> int | None:
    """The position of the value with the highest mean of the standardized scores; None: every value diverged.

    Each protocol's scores have mean 0 and standard deviation 1 over a row's values, so that no protocol decides alone by
    spreading more widely than the others. Of equals, the lowest value.
    """
    usable = [index for index, values in enumerate(zip(*scores.values(), strict=True)) if None not in values]
    if not usable:
        return None
    columns = [_standardized([float(values[index] or 0) for index in usable]) for values in scores.values()]
    means = [statistics.fmean(of_value) for of_value in zip(*columns, strict=True)]
    return usable[means.index(max(means))]


def _standardized(values: Sequence[float]) -> list[float]:
    mean, spread = statistics.fmean(values), statistics.pstdev(values)
    return [(value - mean) / spread if spread else 0.0 for value in values]


def extended(values: Sequence[float], chosen: Collection[int | None], least: float) -> tuple[float, ...]:
    """The values with one more at an edge where a row's best is, by the factor between the last two there.

    None is below `least`, the highest rate at which a schedule ends.
    """
    last = len(values) - 1
    below = _rounded(values[0] * values[0] / values[1])
    above = _rounded(values[last] * values[last] / values[last - 1])
    return (*([below] if 0 in chosen and below >= least else []), *values, *([above] if last in chosen else []))


def _rounded(value: float) -> float:
    """To three digits."""
    return round(value, 2 - math.floor(math.log10(value)))
