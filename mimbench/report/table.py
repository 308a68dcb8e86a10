"""The table of a grid, computed once. CSV, markdown, LaTeX, page and terminal are forms of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mimbench.report.analysis import Analysis, Cell
from mimbench.report.cells import cell_text, long_row
from mimbench.report.collect import Grid
from mimbench.report.compute import HEADING as FLOPS
from mimbench.report.compute import flops_column
from mimbench.report.format import csv
from mimbench.report.legend import legend, one_seed_warning, paper_note
from mimbench.report.published import PaperColumn, Published, paper_column
from mimbench.report.variance import Spread, spreads

if TYPE_CHECKING:
    import pandas as pd

STATISTICS = ["mean", "sd", "ci_low", "ci_high", "difference", "difference_low", "difference_high", "p", "p_holm"]
COLUMNS = ["row", "label", "reference", "protocol", "metric", "unit", "n", *STATISTICS[:4], "n_pairs", *STATISTICS[4:],
           "primary", "verdict", "unfinished", "flops", "paper", "paper_source"]  # fmt: skip


@dataclass(frozen=True)
class Table:
    """What every form shows."""

    grid: Grid
    cells: dict[tuple[str, str], Cell]  # by row and protocol
    paper: PaperColumn | None
    headings: list[str]
    rows: list[list[str]]  # the text of each measured cell: row label, then one per protocol
    long_rows: list[list[str]]  # one per cell, under cells.LONG
    warning: str  # if there is one seed only
    legend: list[str]
    paper_note: str
    spreads: list[Spread]  # of the cells whose seeds share runs
    flops: list[str] | None = None  # of each row's training, where they were counted

    def whole(self) -> tuple[list[str], list[list[str]]]:
        """Headings and rows with what stands beside the measured numbers: FLOPs, and the paper's numbers last."""
        beside: list[tuple[str, list[str]]] = [] if self.flops is None else [(FLOPS, self.flops)]
        if self.paper is not None:
            beside.append((self.paper.heading, [self.paper.cells[row.name] for row in self.grid.rows]))
        rows = [[*row, *(texts[index] for _, texts in beside)] for index, row in enumerate(self.rows)]
        return [*self.headings, *(heading for heading, _ in beside)], rows


def tabulate(analysis: Analysis) -> Table:
    grid, cells, paper = analysis.grid, analysis.cells, paper_column(analysis.grid)
    rows = [
        [row.label, *(cell_text(cells.get((row.name, column.protocol)), grid) for column in grid.columns)]
        for row in grid.rows
    ]
    long_rows = [long_row(cell, grid.unit) for cell in cells.values()]
    headings = ["", *(column.heading for column in grid.columns)]
    return Table(
        grid, cells, paper, headings, rows, long_rows, warning=one_seed_warning(analysis), legend=legend(grid),
        paper_note=paper_note(paper), spreads=spreads(analysis), flops=flops_column(grid),
    )  # fmt: skip


def frame(analysis: Analysis) -> pd.DataFrame:
    """One line per row and protocol that has planned runs. What does not apply is missing."""
    import pandas as pd

    grid, paper = analysis.grid, paper_column(analysis.grid)
    published = paper.numbers if paper else {}
    of_seeds = [f"{what}_{seed}" for what in ("seed", "run") for seed in grid.seeds]
    places = [(row.name, column.protocol) for row in grid.rows for column in grid.columns]
    lines = [_line(analysis.cells[place], published.get(place)) for place in places if place in analysis.cells]
    found = pd.DataFrame(lines, columns=[*COLUMNS, *of_seeds])
    return found.astype({"n_pairs": "Int64", "primary": "boolean", "flops": "Int64"})


def _line(cell: Cell, published: Published | None) -> dict[str, Any]:
    row, column, summary, comparison = cell.row, cell.column, cell.summary, cell.comparison
    line: dict[str, Any] = {
        "row": row.name, "label": row.label, "reference": row.reference, "protocol": column.protocol,
        "metric": column.metric, "unit": column.unit, "n": len(cell.replicates), "unfinished": cell.unfinished,
    }  # fmt: skip
    if summary:
        line |= {"mean": summary.mean, "sd": summary.sd, "ci_low": summary.low, "ci_high": summary.high}
    if comparison:
        line |= {"n_pairs": comparison.n, "difference": comparison.difference, "difference_low": comparison.low,
                 "difference_high": comparison.high, "p": comparison.p, "p_holm": comparison.p_holm,
                 "primary": comparison.primary, "verdict": comparison.verdict}  # fmt: skip
    if row.flops:
        line["flops"] = round(row.flops["total"])
    if published:
        line |= {"paper": float(published["value"]), "paper_source": f"{published['source']}, {published['table']}"}
    line |= {f"seed_{seed}": value for seed, value in cell.values.items()}
    return line | {f"run_{seed}": record.name for seed, record in cell.runs.items()}


def table_csv(analysis: Analysis) -> str:
    """Statistics have seven digits: the last ones of a t quantile differ between versions of scipy."""
    found = frame(analysis)
    found[STATISTICS] = found[STATISTICS].map("{:.7g}".format, na_action="ignore")
    return csv(found)
