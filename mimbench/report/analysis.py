"""The cells of a table: the grid's numbers with their statistics."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from mimbench.report.collect import Column, Grid, Row, RunRecord, read_grid
from mimbench.report.comparable import check_comparable
from mimbench.report.statistics import Comparison, Summary, compare, judge, summarize
from mimbench.store.results import Store


@dataclass(frozen=True)
class Cell:
    row: Row
    column: Column
    runs: dict[int, RunRecord]
    values: dict[int, float]  # of the seeds that are done
    replicates: dict[int, float]  # what the statistics are of: the means of seeds that share runs; else the same
    summary: Summary | None
    comparison: Comparison | None  # with the row's reference; None for a reference itself

    @property
    def unfinished(self) -> str:
        """`running`, or `1 failed, 2 planned` if seeds differ; empty when all are done."""
        states = Counter(record.state for record in self.runs.values() if record.state != "done")
        if len(states) == 1 and not self.values:
            return next(iter(states))
        return ", ".join(f"{count} {state}" for state, count in sorted(states.items()))


@dataclass(frozen=True)
class Analysis:
    grid: Grid
    cells: dict[tuple[str, str], Cell]  # by row and protocol, column after column; those that have planned runs


def analyze(store: Store, name: str, scale: str) -> Analysis:
    """Read the grid, refuse numbers that are not comparable, compute the statistics."""
    return analysis_of(read_grid(store, name, scale))


def analysis_of(grid: Grid) -> Analysis:
    check_comparable(grid)
    cells = [cell for column in grid.columns for cell in _column_cells(grid, column)]
    return Analysis(grid, {(cell.row.name, cell.column.protocol): cell for cell in cells})


def _column_cells(grid: Grid, column: Column) -> list[Cell]:
    rows = {row.name: (row, runs) for row in grid.rows if (runs := grid.runs(row, column.protocol))}
    values = {
        name: {seed: float(r.result["metrics"][column.metric]) for seed, r in runs.items() if r.result is not None}
        for name, (_, runs) in rows.items()
    }
    references = {name: row.reference for name, (row, _) in rows.items()
                  if not row.is_reference and row.reference in rows}  # fmt: skip
    compared = {
        name: compare(
            _replicates(grid, values[name], values[reference]), _replicates(grid, values[reference], values[name])
        )
        for name, reference in references.items()
    }
    primary = grid.primary["row"] if grid.primary and grid.primary["protocol"] == column.protocol else None
    # the family is what was planned, not what has finished: an unfinished table must not look more certain
    judged = judge({name: c for name, c in compared.items() if c}, primary, family=len(references.keys() - {primary}))
    means = {name: _replicates(grid, own, own) for name, own in values.items()}
    return [
        Cell(row, column, runs, values[name], means[name], summarize(list(means[name].values())), judged.get(name))
        for name, (row, runs) in rows.items()
    ]


def _replicates(grid: Grid, values: Mapping[int, float], among: Collection[int]) -> dict[int, float]:
    """The mean of each replicate whose seeds are all there and `among` these: a part of it has another spread."""
    found: dict[int, list[float]] = defaultdict(list)
    for seed, value in values.items():
        if seed in among:
            found[grid.replicate(seed)].append(value)
    whole = math.prod(grid.nested.values())
    return {r: math.fsum(of_seeds) / whole for r, of_seeds in found.items() if len(of_seeds) == whole}
