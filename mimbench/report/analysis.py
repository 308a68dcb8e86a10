"""The cells of a table: the grid's numbers with what the statistics say of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from mimbench.report.collect import Column, Grid, Record, Row, read_grid
from mimbench.report.comparable import check_comparable
from mimbench.report.statistics import Comparison, Summary, compare, judge, summarise
from mimbench.store.results import Store


@dataclass(frozen=True)
class Cell:
    row: Row
    column: Column
    runs: dict[int, Record]
    values: dict[int, float]  # of the seeds that are done
    summary: Summary | None
    comparison: Comparison | None  # with the row's reference; None for a reference itself

    @property
    def unfinished(self) -> str:
        """`running`, or `1 failed, 2 planned` where the seeds differ; empty when all are done."""
        states = Counter(record.state for record in self.runs.values() if record.state != "done")
        if len(states) == 1 and not self.values:
            return next(iter(states))
        return ", ".join(f"{count} {state}" for state, count in sorted(states.items()))


@dataclass(frozen=True)
class Analysis:
    grid: Grid
    cells: dict[tuple[str, str], Cell]  # by row and protocol

    def cell(self, row: Row, column: Column) -> Cell:
        return self.cells[row.name, column.protocol]

    @property
    def one_seed(self) -> bool:
        """No cell has more than one seed: the table as a whole is marked."""
        return all(cell.summary is None or cell.summary.n == 1 for cell in self.cells.values())


def analyse(store: Store, name: str, scale: str) -> Analysis:
    """Read, refuse what may not be compared, compute."""
    grid = read_grid(store, name, scale)
    check_comparable(grid)
    cells: dict[tuple[str, str], Cell] = {}
    for column in grid.columns:
        runs = {row.name: grid.runs(row, column.protocol) for row in grid.rows}
        values = {name: _values(records, column) for name, records in runs.items()}
        judged = _compare_column(grid, column, values, {name for name, records in runs.items() if records})
        for row in grid.rows:
            numbers = values[row.name]
            summary = summarise(list(numbers.values())) if numbers else None
            cells[row.name, column.protocol] = Cell(row, column, runs[row.name], numbers, summary, judged.get(row.name))
    return Analysis(grid, cells)


def _compare_column(
    grid: Grid, column: Column, values: dict[str, dict[int, float]], planned: set[str]
) -> dict[str, Comparison]:
    primary = grid.primary[0] if grid.primary and grid.primary[1] == column.protocol else None
    references = {row.name: row.reference for row in grid.rows
                  if not row.is_reference and {row.name, row.reference} <= planned}  # fmt: skip
    found = {name: compare(values[name], values[reference]) for name, reference in references.items()}
    comparisons = {name: comparison for name, comparison in found.items() if comparison is not None}
    # The family is what was planned, not what has finished: a half-done table must not look surer than the whole.
    return judge(comparisons, primary, family=len(references.keys() - {primary}))


def _values(records: dict[int, Record], column: Column) -> dict[int, float]:
    return {seed: float(r.result["metrics"][column.metric]) for seed, r in records.items() if r.result is not None}
