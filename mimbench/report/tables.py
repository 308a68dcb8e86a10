"""The table as markdown, CSV, LaTeX and plain text. Bytes follow from the records alone: no times, no hosts."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

from mimbench.report.analysis import Analysis, Cell
from mimbench.report.notices import result_notices
from mimbench.report.published import PaperColumn, paper_column
from mimbench.report.statistics import IDENTICAL, Comparison, Summary

MARKS = {"higher": "↑", "lower": "↓"}
DASH = "–"


def number(value: float, unit: str, sign: bool = False) -> str:
    """Two decimals for percentages, four digits for anything else; a true minus sign."""
    text = f"{value:+.2f}" if sign and unit == "%" else f"{value:.2f}" if unit == "%" else f"{value:{'+' * sign}.4g}"
    return "0.00" if text in ("-0.00", "+0.00") else text.replace("-", "−")


def interval(low: float | None, high: float | None, unit: str, sign: bool = False) -> str:
    if low is None or high is None:
        return ""
    return f"{number(low, unit, sign)} to {number(high, unit, sign)}"


def p_text(p: float | None) -> str:
    if p is None:
        return ""
    return "<0.0001" if p < 0.0001 else f"{p:.2g}" if p < 0.1 else f"{p:.2f}"


def cell_text(cell: Cell, seeds: int) -> str:
    """`61.30 ± 1.24 ↓`, `61.30 (one seed)`, or why there is no number."""
    if not cell.runs:
        return DASH
    if cell.summary is None:
        return cell.unfinished
    text = value_text(cell.summary, cell.column.unit)
    if 1 < cell.summary.n < seeds:
        text += f" (n={cell.summary.n})"
    if fewer := _fewer_compared(cell):
        text += f" ({fewer} compared)"
    mark = MARKS.get(cell.comparison.verdict) if cell.comparison else None
    return f"{text} {mark}" if mark else text


def difference_text(cell: Cell) -> str:
    """The difference, and over how many seeds where the row has more: then it is not that of the means."""
    if cell.comparison is None:
        return ""
    fewer = f" (n={cell.comparison.n})" if _fewer_compared(cell) else ""
    return number(cell.comparison.difference, cell.column.unit, sign=True) + fewer


def _fewer_compared(cell: Cell) -> int:
    """How many seeds the test is over, where the reference lacks some of this row's; else 0."""
    if cell.comparison is None or cell.summary is None or cell.comparison.n == cell.summary.n:
        return 0
    return cell.comparison.n


def value_text(summary: Summary, unit: str) -> str:
    text = number(summary.mean, unit)
    if summary.n == 1:
        return f"{text} (one seed)"
    if summary.half is None:
        return f"{text} (identical)"
    return f"{text} ± {number(summary.half, unit)}"


def legend(analysis: Analysis) -> list[str]:
    """What the numbers, intervals and marks mean, in three sentences."""
    grid, base = analysis.grid, analysis.grid.compared_with
    its = f"that of {base}" if grid.at_same_point else f"{base}'s"
    primary = ""
    if grid.primary:
        row = grid.row(grid.primary[0])
        pair = f"{row.label} against {grid.row(row.reference).label}"
        column = next((c.label for c in grid.columns if c.protocol == grid.primary[1]), grid.primary[1])
        primary = f"the one comparison named beforehand ({pair}, {column}) as it stands, every other one "
    return [
        "Each number is the mean over seeds ± the half-width of its 95 % t-interval; a seed drives tokenizer, "
        "pre-training and evaluation together while the data and its splits stay fixed, so the interval covers the "
        "chance of training, not the choice of images.",
        f"↑ and ↓ mark a difference from {base} that a two-sided t-test, paired over seeds, tells from zero at 5 %: "
        f"{primary}after Holm's adjustment over its column.",
        f"A number without a mark is not told apart from {its}, which does not say that they are equal; "
        "one seed: no interval and no test.",
    ]


def warning_of_one_seed(analysis: Analysis) -> str:
    return "One seed: no interval, no test; the order of the rows may be chance." if analysis.one_seed else ""


def text_rows(analysis: Analysis) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the short table."""
    grid, paper = analysis.grid, paper_column(analysis.grid)
    headings = ["", *(column.heading for column in grid.columns), *([paper.heading] if paper else [])]
    rows = []
    for row in grid.rows:
        cells = [cell_text(analysis.cell(row, column), len(grid.seeds)) for column in grid.columns]
        rows.append([row.label, *cells, *([paper.cells[row.name] or DASH] if paper else [])])
    return headings, rows


LONG = ["Row", "Evaluation", "n", "Mean", "sd", "95 % interval", "Difference", "its 95 % interval", "p", "p (Holm)",
        "Verdict"]  # fmt: skip


def long_rows(analysis: Analysis) -> list[list[str]]:
    """Every number with its test, a row and a protocol a line."""
    return [
        [cell.row.label, cell.column.heading, *_summary(cell), *_comparison(cell)]
        for column in analysis.grid.columns
        for cell in (analysis.cell(row, column) for row in analysis.grid.rows)
        if cell.runs
    ]


def _summary(cell: Cell) -> list[str]:
    summary, unit = cell.summary, cell.column.unit
    if summary is None:
        return ["0", cell.unfinished, "", ""]
    sd = "" if summary.sd is None else number(summary.sd, unit)
    return [str(summary.n), number(summary.mean, unit), sd, interval(summary.low, summary.high, unit) or summary.reason]


def _comparison(cell: Cell) -> list[str]:
    comparison, unit = cell.comparison, cell.column.unit
    if comparison is None:
        return ["", "", "", "", ""]
    return [
        difference_text(cell),
        interval(comparison.low, comparison.high, unit, sign=True),
        p_text(comparison.p),
        "primary" if comparison.primary else p_text(comparison.p_holm),
        comparison.verdict,
    ]


def markdown(analysis: Analysis) -> str:
    grid, paper = analysis.grid, paper_column(analysis.grid)
    headings, rows = text_rows(analysis)
    seeds = f"{len(grid.seeds)} seeds" if len(grid.seeds) > 1 else "one seed"
    parts = [f"# {grid.title}", f"Grid `{grid.name}`, scale `{grid.scale}`, {seeds} planned."]
    parts += [grid.note] if grid.note else []
    parts += [f"**{warning_of_one_seed(analysis)}**"] if analysis.one_seed else []
    parts += [_markdown_table(headings, rows, numeric_from=1), " ".join(legend(analysis))]
    parts += [paper_note(paper)] if paper else []
    parts += ["\n".join(f"- {row.label}: {row.description}" for row in grid.rows if row.description)]
    parts += [f"## Every number, and its difference from {grid.compared_with}"]
    parts += [_markdown_table(LONG, long_rows(analysis), numeric_from=2)]
    notices = result_notices(grid)
    parts += ["## Flags\n\n" + "\n".join(f"- {notice}" for notice in notices)] if notices else []
    return "\n\n".join(part for part in parts if part) + "\n"


def paper_note(paper: PaperColumn) -> str:
    sources = " ".join(f"[{number}] {source}." for number, source in enumerate(paper.sources, 1))
    return (
        "The paper's numbers come from other data, models and budgets; they stand beside ours for orientation and "
        f"enter no mean and no test. {sources}"
    )


def _markdown_table(headings: list[str], rows: list[list[str]], numeric_from: int) -> str:
    rule = ["---:" if index >= numeric_from else "---" for index in range(len(headings))]
    lines = [headings, rule, *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


CSV = ["row", "protocol", "metric", "unit", "n", "mean", "sd", "ci_low", "ci_high", "n_pairs", "difference",
       "difference_low", "difference_high", "p", "p_holm", "primary", "verdict", "unfinished", "paper",
       "paper_source"]  # fmt: skip


def tidy_csv(analysis: Analysis) -> str:
    """A row and a protocol a line, with the raw value and the run of every seed."""
    grid, paper = analysis.grid, paper_column(analysis.grid)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*CSV, *(f"seed_{seed}" for seed in grid.seeds), *(f"run_{seed}" for seed in grid.seeds)])
    for row in grid.rows:
        for column in grid.columns:
            cell = analysis.cell(row, column)
            if not cell.runs:
                continue
            published = paper.numbers.get((row.name, column.protocol)) if paper else None
            source = f"{published.fields['source']}, {published.fields['table']}" if published else ""
            summary, comparison = cell.summary, cell.comparison
            writer.writerow([
                row.name, column.protocol, column.metric, column.unit, summary.n if summary else 0,
                *(_raw(getattr(summary, name, None)) for name in ("mean", "sd", "low", "high")),
                *_csv_comparison(comparison), verdict(cell, is_base=row.is_reference), cell.unfinished,
                published.value if published else "", source,
                *(repr(cell.values[seed]) if seed in cell.values else "" for seed in grid.seeds),
                *(cell.runs[seed].name if seed in cell.runs else "" for seed in grid.seeds),
            ])  # fmt: skip
    return stream.getvalue()


def verdict(cell: Cell, *, is_base: bool) -> str:
    if is_base:
        return "base"
    return cell.comparison.verdict if cell.comparison else ""


def _csv_comparison(comparison: Comparison | None) -> Iterable[str]:
    if comparison is None:
        return [""] * 7
    numbers = (comparison.difference, comparison.low, comparison.high, comparison.p, comparison.p_holm)
    return [str(comparison.n), *map(_raw, numbers), "yes" if comparison.primary else "no"]


def _raw(value: float | None) -> str:
    """Seven digits: the last ones of a t quantile may differ between versions of scipy."""
    return "" if value is None else f"{value:.7g}"


LATEX_ESCAPES = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "↑": r"$\uparrow$", "↓": r"$\downarrow$",
    "−": "$-$", "–": "--", "<": "$<$", ">": "$>$", "≤": r"$\leq$", "×": r"$\times$",
})  # fmt: skip


def latex(analysis: Analysis) -> str:
    """A booktabs table with the legend and the sources in the caption."""
    grid, paper = analysis.grid, paper_column(analysis.grid)
    headings, rows = text_rows(analysis)
    caption = [f"{grid.title}.", warning_of_one_seed(analysis), *legend(analysis)]
    caption += [paper_note(paper)] if paper else []
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\begin{{tabular}}{{l{'r' * (len(headings) - 1)}}}",
        r"\toprule",
        " & ".join(heading.translate(LATEX_ESCAPES) for heading in headings) + r" \\",
        r"\midrule",
        *(" & ".join(cell.translate(LATEX_ESCAPES) for cell in row) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
        rf"\caption{{{' '.join(part for part in caption if part).translate(LATEX_ESCAPES)}}}",
        rf"\label{{tab:{grid.name}-{grid.scale}}}".replace("_", "-"),
        r"\end{table}",
    ]
    if any(cell.summary and cell.summary.reason == IDENTICAL for cell in analysis.cells.values()):
        lines.insert(1, "% (identical): every seed gave the same number, so there is no interval")
    return "\n".join(lines) + "\n"
