"""The text of a cell."""

from __future__ import annotations

from mimbench.report.analysis import Cell
from mimbench.report.collect import Grid
from mimbench.report.format import DASH, interval, number, p_text

MARKS = {"higher": "↑", "lower": "↓"}
LONG = ["Row", "Evaluation", "n", "Mean", "SD", "95 % CI", "Difference", "95 % CI of the difference", "p", "p (Holm)",
        "Verdict"]  # fmt: skip


def cell_text(cell: Cell | None, grid: Grid) -> str:
    """`61.30 ± 1.24 ↓`, `61.30 (one seed)`, or why there is no number."""
    if cell is None:
        return DASH
    if cell.summary is None:
        return cell.unfinished
    n, low, high, unit = cell.summary.n, cell.summary.low, cell.summary.high, cell.column.unit
    text = number(cell.summary.mean, unit)
    if n == 1:
        text += f" (one {grid.unit})"
    elif low is None or high is None:
        text += f" (identical over {grid.unit}s)"
    else:
        text += f" ± {number((high - low) / 2, unit)}"
    if 1 < n < len({grid.replicate(seed) for seed in grid.seeds}):
        text += f" (n={n})"
    if cell.comparison and cell.comparison.n != n:
        text += f" ({cell.comparison.n} paired)"
    if cell.comparison and cell.comparison.verdict in MARKS:
        text += f" {MARKS[cell.comparison.verdict]}"
    return text


def difference_text(cell: Cell) -> str:
    """With the number of pairs if the row has more of them: then it is not the difference of the means."""
    if cell.comparison is None:
        return ""
    pairs = "" if cell.comparison.n == len(cell.replicates) else f" (n={cell.comparison.n})"
    return number(cell.comparison.difference, cell.column.unit, sign=True) + pairs


def long_row(cell: Cell, counted: str) -> list[str]:
    """Every number of a cell, under LONG. `counted`: what n counts, seeds or replicates."""
    summary, comparison, unit = cell.summary, cell.comparison, cell.column.unit
    line = [cell.row.label, cell.column.heading, str(len(cell.replicates))]
    if summary is None:
        line += [cell.unfinished, "", ""]
    else:
        why = f"no confidence interval with one {counted}" if summary.n == 1 else f"identical over {counted}s"
        sd = "" if summary.sd is None else number(summary.sd, unit)
        line += [number(summary.mean, unit), sd, interval(summary.low, summary.high, unit) or why]
    if comparison is None:
        return [*line, "", "", "", "", ""]
    return [
        *line,
        difference_text(cell),
        interval(comparison.low, comparison.high, unit, sign=True),
        p_text(comparison.p),
        "pre-specified, unadjusted" if comparison.primary else p_text(comparison.p_holm),
        comparison.verdict,
    ]
