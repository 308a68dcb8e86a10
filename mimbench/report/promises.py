"""The one column of each row, named before any run, in which it should exceed its reference."""

from __future__ import annotations

from mimbench.report.cells import difference_text
from mimbench.report.format import p_text
from mimbench.report.statistics import LEVEL, holm
from mimbench.report.table import Table

PROMISES = ["Row", "Against", "Evaluation", "Difference", "p", "p (Holm)", "Verdict"]
NOTE = "Two-sided paired t-tests, Holm-adjusted over these rows alone, all that were planned."


def promises(table: Table) -> list[list[str]]:
    """One line per row that names a column, under PROMISES: passed, or not separated."""
    rows = [row for row in table.grid.rows if row.improves is not None]
    cells = {row.name: table.cells.get((row.name, row.improves or "")) for row in rows}
    compared = {name: cell.comparison for name, cell in cells.items() if cell and cell.comparison}
    adjusted = holm({name: c.p for name, c in compared.items() if c.p is not None}, family=len(rows))
    lines = []
    for row in rows:
        cell, comparison, p = cells[row.name], compared.get(row.name), adjusted.get(row.name)
        passed = comparison is not None and p is not None and p < LEVEL and comparison.difference > 0
        lines.append([
            row.label, table.grid.row(row.reference).label, table.grid.label(row.improves or ""),
            difference_text(cell) if cell else "", p_text(comparison.p if comparison else None), p_text(p),
            "passed" if passed else "not separated" if p is not None else "not tested yet",
        ])  # fmt: skip
    return lines
