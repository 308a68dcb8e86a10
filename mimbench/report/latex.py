"""The table as LaTeX (booktabs), as wide as a column at most, with the legend in the caption. Bytes follow from the records alone."""

from __future__ import annotations

import re
from collections.abc import Iterable

from mimbench.inert import for_latex
from mimbench.report.compute import HEADING as FLOPS
from mimbench.report.table import Table

FITTED = (
    r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"  # shrunk where it is too wide, never enlarged
)
LABELS = r">{\raggedright\arraybackslash}p{0.3\linewidth}"  # long labels take a second line


def latex(table: Table) -> str:
    """Without the papers' numbers, which are wider than they are useful in a paper of one's own: they are in table.csv."""
    grid = table.grid
    headings, rows = list(table.headings), table.rows
    if table.flops is not None:
        headings.append(FLOPS)
        rows = [[*row, flops] for row, flops in zip(rows, table.flops, strict=True)]
    caption = " ".join(filter(None, [f"{grid.title}.", table.warning, *table.legend]))
    return "\n".join([
        r"% needs \usepackage{booktabs,graphicx,array}",
        r"\begin{table}",
        r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
        FITTED,
        rf"\begin{{tabular}}{{{LABELS}{'r' * (len(headings) - 1)}}}",
        r"\toprule",
        _line(map(_stacked, headings)),
        r"\midrule",
        *(_line(map(_cell, row)) for row in rows),
        r"\bottomrule",
        r"\end{tabular}}",
        rf"\caption{{{for_latex(caption)}}}",
        rf"\label{{tab:{grid.name}-{grid.scale}}}".replace("_", "-"),
        r"\end{table}",
    ]) + "\n"  # fmt: skip


def _line(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _stacked(heading: str) -> str:
    """A word a line: the numbers below are narrow."""
    words = for_latex(heading).split(" ")
    stacked = r"\\".join(words)
    return rf"\shortstack[r]{{{stacked}}}" if len(words) > 1 else stacked


def _cell(text: str) -> str:
    """The interval smaller than the mean."""
    return re.sub(r" \$\\pm\$ (\S+)", r"{\\scriptsize\\,$\\pm$\\,\1}", for_latex(text))
