"""The one column of each row, named before any run, in which it should exceed its reference."""

from __future__ import annotations

from mimbench.report.cells import difference_text
from mimbench.report.format import count, p_text
from mimbench.report.statistics import LEVEL, holm
from mimbench.report.table import Table

PROMISES = ["Row", "Against", "Evaluation", "Difference", "p", "p (Holm)", "Verdict"]
PASSED, NOT_SEPARATED, WORSE, NOT_TESTED = "passed", "not separated", "significantly worse", "not tested yet"
MOST_NAMES = 12  # in a sentence; more are counted
TITLE = "The column named before the run"
NOTE = "Two-sided paired t-tests, Holm-adjusted over these rows alone, all that were planned."


def promises(table: Table) -> list[list[str]]:
    """One line per row that names a column, under PROMISES."""
    rows = [row for row in table.grid.rows if row.improves is not None]
    cells = {row.name: table.cells.get((row.name, row.improves or "")) for row in rows}
    compared = {name: cell.comparison for name, cell in cells.items() if cell and cell.comparison}
    adjusted = holm({name: c.p for name, c in compared.items() if c.p is not None}, family=len(rows))
    lines = []
    for row in rows:
        cell, comparison, p = cells[row.name], compared.get(row.name), adjusted.get(row.name)
        lines.append([
            row.label, table.grid.row(row.reference).label, table.grid.label(row.improves or ""),
            difference_text(cell) if cell else "", p_text(comparison.p if comparison else None), p_text(p),
            _verdict(comparison.difference if comparison else 0.0, p),
        ])  # fmt: skip
    return lines


def _verdict(difference: float, p: float | None) -> str:
    if p is None:
        return NOT_TESTED
    if p >= LEVEL:
        return NOT_SEPARATED
    return PASSED if difference > 0 else WORSE


def in_a_sentence(table: Table) -> str:
    """How many rows passed, and which did not; empty while none is tested."""
    labels: dict[str, list[str]] = {verdict: [] for verdict in (PASSED, NOT_SEPARATED, WORSE, NOT_TESTED)}
    for line in (lines := promises(table)):
        labels[line[-1]].append(line[0])
    if len(labels[NOT_TESTED]) == len(lines):
        return ""
    passed = len(labels.pop(PASSED))
    others = [
        f"; {verdict}: {', '.join(rows) if len(rows) <= MOST_NAMES else len(rows)}"
        for verdict, rows in labels.items()
        if rows
    ]
    return (
        f"In the column named for it before the run, {passed} of {count(len(lines), 'row')} exceeded the reference significantly "
        f"(Holm-adjusted over these rows){''.join(others)}."
    )
