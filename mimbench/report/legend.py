"""The notes beside a table: how to read its numbers, and the sources of the paper's."""

from __future__ import annotations

from mimbench.report.analysis import Analysis
from mimbench.report.collect import Grid
from mimbench.report.published import PaperColumn


def legend(grid: Grid) -> list[str]:
    """What the numbers, intervals and marks mean."""
    primary = ""
    if grid.primary:
        row, column = grid.row(grid.primary["row"]), grid.label(grid.primary["protocol"])
        primary = f"; {row.label} against {grid.row(row.reference).label}, {column}: pre-specified, unadjusted"
    return [
        "Each number is the mean over seeds ± 95 % CI (half-width of the t-interval). A seed drives tokenizer, "
        "pre-training and evaluation; data and splits stay fixed, so the interval covers the randomness of training, "
        "not the choice of images.",
        f"↑ and ↓: significantly higher or lower than {grid.compared_with} (two-sided paired t-test over seeds, "
        f"p < 0.05, Holm-adjusted per column{primary}).",
        "No mark: not significant, which does not mean equal. With one seed there is no confidence interval and no test.",
    ]


def one_seed_warning(analysis: Analysis) -> str:
    """If no cell has more than one seed."""
    if any(len(cell.values) > 1 for cell in analysis.cells.values()):
        return ""
    return "One seed: no confidence interval, no test. The order of the rows may be chance."


def paper_note(paper: PaperColumn | None) -> str:
    if paper is None:
        return ""
    sources = " ".join(f"[{number}] {source}." for number, source in enumerate(paper.sources, 1))
    return (
        "The paper's numbers come from other data, models and budgets. They are shown for orientation and enter no mean "
        f"and no test. {sources}"
    )
