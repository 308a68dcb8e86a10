"""The parts of the page that Python writes: tables, figures, costs and sources as HTML."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape

from mimbench.report.analysis import Cell
from mimbench.report.cells import MARKS, difference_text
from mimbench.report.collect import Column, Grid
from mimbench.report.colors import ON_PAGE
from mimbench.report.costs import costs
from mimbench.report.figures import Drawing
from mimbench.report.format import count, duration, p_text
from mimbench.report.notices import days, machine_facts
from mimbench.report.promises import NOTE, PROMISES, TITLE, promises
from mimbench.report.sheet import ARTIST
from mimbench.report.table import Table
from mimbench.report.variance import HEADINGS, spread_note, spread_rows

DIGITS = ".10g"  # of a single number: 57.7, not 57.699999999999996


def inline_markdown(text: str) -> str:
    """Emphasis, code and paragraphs; the rest stays as written."""
    html = escape(text, quote=False)
    for pattern, tag in ((r"`([^`]+)`", "code"), (r"\*\*(.+?)\*\*", "strong"), (r"\*(.+?)\*", "em")):
        html = re.sub(pattern, rf"<{tag}>\1</{tag}>", html)
    return re.sub(r"\n\s*\n", "<br><br>", html)


def main_table(table: Table) -> str:
    grid, paper = table.grid, table.paper
    columns = [
        *((column.protocol, column.heading) for column in grid.columns),
        *([("flops", "FLOPs")] if table.flops else []),
    ]
    head = "".join(_heading(name, text) for name, text in [("row", "Row"), *columns])
    head += _heading("paper", paper.heading, kind="paper wide") if paper else ""
    lines = []
    for index, (row, (label, *texts)) in enumerate(zip(grid.rows, table.rows, strict=True)):
        cells = "".join(
            _cell(text, table.cells.get((row.name, column.protocol)))
            for text, column in zip(texts, grid.columns, strict=True)
        )
        if table.flops:
            cells += f'<td data-v="{row.flops["total"] if row.flops else ""}">{escape(table.flops[index])}</td>'
        if paper:
            number = re.match(r"[\d.]+", paper.cells[row.name])
            cells += (
                f'<td class="paper" data-v="{number.group() if number else ""}">{escape(paper.cells[row.name])}</td>'
            )
        base = ' class="base"' if row.is_reference else ""
        lines.append(f'<tr data-row="{escape(row.name)}"{base}><th scope="row">{escape(label)}</th>{cells}</tr>')
    return _scrolling(f"<tr>{head}</tr>", "".join(lines), "Results by row", 'id="main-table"')


def _heading(name: str, text: str, kind: str = "") -> str:
    return f'<th scope="col" data-column="{escape(name)}"{f" class={kind!r}" if kind else ""}>{escape(text)}</th>'


def _cell(text: str, cell: Cell | None) -> str:
    if cell is None or cell.summary is None:
        return f'<td data-v="">{escape(text)}</td>'
    small = ""
    if cell.comparison:
        mark = cell.comparison.verdict if cell.comparison.verdict in MARKS else ""
        p = p_text(cell.comparison.p if cell.comparison.primary else cell.comparison.p_holm)
        relation = f"< {p[1:]}" if p.startswith("<") else f"= {p}"
        tested = f", p {relation}" if p else ""
        small = f'<small class="{mark}">{escape(difference_text(cell) + tested)}</small>'
    return f'<td data-v="{cell.summary.mean!r}">{escape(text)}{small}</td>'


def promises_section(table: Table) -> str:
    found = promises(table)
    if not found:
        return ""
    return folded(TITLE, f"{dense_table(PROMISES, found, TITLE, text_columns=3)}<p>{escape(NOTE)}</p>")


def spread_section(table: Table) -> str:
    if not table.spreads:
        return ""
    found = dense_table(HEADINGS, spread_rows(table.spreads), "Spread", text_columns=3)
    return folded("Where the spread comes from", f"{found}<p>{escape(spread_note(table.spreads))}</p>")


def folded(summary: str, content: str) -> str:
    return f'<details class="fold"><summary>{escape(summary)}</summary>{content}</details>\n'


def dense_table(headings: list[str], rows: list[list[str]], label: str, text_columns: int = 2) -> str:
    """The first columns are text, the others numbers."""
    kinds = [' class="text"' if index < text_columns else "" for index in range(len(headings))]
    head = "".join(f'<th scope="col"{kind}>{escape(text)}</th>' for kind, text in zip(kinds, headings, strict=True))

    def line(cells: list[str]) -> str:
        return "".join(f"<td{kind}>{escape(cell)}</td>" for kind, cell in zip(kinds, cells, strict=True))

    body = "".join(f"<tr>{line(row)}</tr>" for row in rows)
    return _scrolling(f"<tr>{head}</tr>", body, label, 'class="dense"')


def _scrolling(head: str, body: str, label: str, attribute: str) -> str:
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}"><table {attribute}>'
        f"<thead>{head}</thead><tbody>{body}</tbody></table></div>"
    )


def figure(drawing: Drawing) -> str:
    """The drawing inline, in the page's colors, light or dark; on a phone the narrow one."""
    label = escape(drawing.name.replace("_", " "))
    wide, narrow = _inline(drawing.svg, f"{label}", "wide"), _inline(drawing.narrow, label, "narrow")
    return f"<figure>{wide}{narrow}<figcaption>{escape(drawing.caption)}</figcaption></figure>"


def _inline(svg: str, label: str, kind: str) -> str:
    """With the page's font and colors. What was drawn of a row carries its name, so that a filter can dim it."""
    svg = svg[svg.index("<svg") :]
    for color, name in ON_PAGE.items():
        svg = svg.replace(color, f"var(--{name})")
    svg = re.sub(rf'id="{ARTIST}([^"]*)"', r'data-artist="\1"', svg)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # else the figures of a page share ids
    svg = re.sub(r"<defs>\s*<style[^>]*>.*?</style>\s*</defs>", "", svg, count=1, flags=re.S)
    svg = svg.replace("'DejaVu Sans'", "system-ui")
    return svg.replace("<svg ", f'<svg class="{kind}" role="img" aria-label="{label}" ', 1)


def cost_summary(grid: Grid) -> str:
    """The time of the whole grid."""
    found = costs(grid)
    if found.empty:
        return "no finished runs"
    total = found.iloc[-1]
    return f"{duration(total['total_seconds'])} in {count(total['runs'], 'finished run')}"


def cost_section(grid: Grid) -> str:
    import pandas as pd

    found = costs(grid)
    if found.empty:
        return "<p>No finished runs yet.</p>"
    shown = pd.DataFrame({
        "Row": found["row"].replace({row.name: row.label for row in grid.rows}),
        "Kind": found["kind"],
        "Runs": found["runs"].astype(str),
        "Mean time": found["mean_seconds"].map(duration),
        "Mean images": found["mean_images"].map("{:,.0f}".format),
        "Total time": found["total_seconds"].map(duration),
        "Total images": found["total_images"].map("{:,}".format),
        "Peak memory": (found["peak_memory_bytes"] / 2**20).map("{:,.0f} MiB".format, na_action="ignore"),
        "Energy": (found["energy_joules"] / 3600).map("{:,.1f} Wh".format, na_action="ignore"),
    }).astype(object).fillna("")  # fmt: skip
    return dense_table(list(shown.columns), shown.to_numpy().tolist(), "Costs by row and kind of run")


def sources(table: Table, runs_at: str | None) -> str:
    """The runs of each row, and what each column measures."""
    grid = table.grid
    parts = []
    for row in grid.rows:
        lines = []
        for kind in grid.kinds:
            values = table.cells[row.name, kind].values if (row.name, kind) in table.cells else {}
            for seed, record in grid.runs(row, kind).items():
                name = escape(record.name)
                link = f'<a href="{runs_at}/{name}/">{name}</a>' if runs_at else name
                state = "" if record.state == "done" else f" ({record.state})"
                shown = f": {values[seed]:{DIGITS}}" if seed in values else ""
                lines.append(f"{escape(kind)}, seed {seed}: <code>{link}</code>{shown}{state}")
        parts.append(f"<details><summary>{escape(row.label)}</summary>{html_list(lines)}</details>")
    parts.append("<p>Within a column, all numbers use one protocol and one data set:</p>")
    return "".join(parts) + html_list(_column(grid, column) for column in grid.columns)


def _column(grid: Grid, column: Column) -> str:
    """Metric, protocol and data set: the last of its first result, as all of them agree."""
    records = (record for row in grid.rows for record in grid.runs(row, column.protocol).values())
    data = next((record.result["data"] for record in records if record.result), None)
    return (
        f"{escape(column.label)}: metric <code>{escape(column.metric)}</code>, "
        f"protocol <code>{escape(column.protocol)}</code>, fingerprint <code>{escape(column.fingerprint)}</code>"
        + (f", data {escape(data['name'])} <code>{escape(data['fingerprint'])}</code>" if data else "")
    )


def facts(grid: Grid) -> str:
    span = days(grid)
    if not span:
        return "<p>No run was started yet.</p>"
    lines = [f"Runs started: {' to '.join(span)}"]
    for field, values in machine_facts(grid).items():
        shown = ", ".join(escape(v) if len(values) == 1 else f"{escape(v)} ({n} runs)" for v, n in values.items())
        lines.append(f"{escape(field)}: {shown}")
    return html_list(lines)


def html_list(items: Iterable[str], kind: str = "") -> str:
    lines = "".join(f"<li>{item}</li>" for item in items)
    return f"<ul{f' class={kind!r}' if kind else ''}>{lines}</ul>" if lines else ""
