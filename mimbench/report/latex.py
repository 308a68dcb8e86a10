"""The table as LaTeX (booktabs), with the legend and the sources in the caption. Bytes follow from the records alone."""

from __future__ import annotations

from mimbench.inert import for_latex
from mimbench.report.table import Table


def latex(table: Table) -> str:
    grid = table.grid
    headings, rows = table.whole()
    caption = " ".join(filter(None, [f"{grid.title}.", table.warning, *table.legend, table.paper_note]))
    return "\n".join([
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\begin{{tabular}}{{l{'r' * (len(headings) - 1)}}}",
        r"\toprule",
        _line(headings),
        r"\midrule",
        *map(_line, rows),
        r"\bottomrule",
        r"\end{tabular}",
        rf"\caption{{{for_latex(caption)}}}",
        rf"\label{{tab:{grid.name}-{grid.scale}}}".replace("_", "-"),
        r"\end{table}",
    ]) + "\n"  # fmt: skip


def _line(cells: list[str]) -> str:
    return " & ".join(for_latex(cell) for cell in cells) + r" \\"
