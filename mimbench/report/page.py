"""index.html: one self-contained file, light or dark, for a phone or for paper."""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Iterable
from html import escape
from string import Template

from mimbench.report.analysis import Cell
from mimbench.report.cells import LONG, MARKS, difference_text
from mimbench.report.choices import CHOSEN, choices
from mimbench.report.collect import Column, Grid
from mimbench.report.colors import ON_PAGE
from mimbench.report.costs import costs
from mimbench.report.curves import damaged_curves
from mimbench.report.figures import Drawing
from mimbench.report.format import count, duration, p_text
from mimbench.report.notices import days, machine_facts, machine_notices, result_notices, run_notices
from mimbench.report.table import Table
from mimbench.report.variance import HEADINGS, spread_note, spread_rows


def page(table: Table, drawings: Iterable[Drawing], *, runs_at: str | None = "../../runs") -> str:
    """The whole report. `runs_at`: the path from the page to the run folders, if they lie beside it."""
    grid = table.grid
    template = importlib.resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    done = sum(record.state == "done" for record in grid.records.values())
    flags = result_notices(grid) + run_notices(grid) + damaged_curves(grid) + machine_notices(grid)
    return Template(template).substitute(
        title=escape(grid.title),
        scale=escape(grid.scale),
        base=escape(grid.compared_with),
        counted=grid.unit,
        subtitle=f"Grid <code>{escape(grid.name)}</code> ({escape(grid.config)}), scale "
        f"<code>{escape(grid.scale)}</code>, {count(len(grid.seeds), 'seed')}, "
        f"{done} of {count(len(grid.records), 'run')} done.",
        note=f'<p class="note">{inline_markdown(grid.note)}</p>' if grid.note else "",
        warnings=f'<p class="warn"><strong>{escape(table.warning)}</strong></p>' if table.warning else "",
        table=_main_table(table),
        legend=escape(" ".join(table.legend)),
        paper=f'<p class="soft">{escape(table.paper_note)}</p>' if table.paper_note else "",
        rows=_list(f"<strong>{escape(row.label)}</strong>: {escape(row.description)}" for row in grid.rows
                   if row.description),
        figures="\n".join(map(_figure, drawings)) or "<p>No finished runs yet.</p>",
        long=_dense_table(LONG, table.long_rows),
        choices=_dense_table(CHOSEN, choices(grid), text_columns=3),
        spread=_spread(table),
        flags="<h2>Flags and warnings</h2>" + _list(map(escape, flags)) if flags else "",
        costs=_costs(grid),
        sources=_sources(table, runs_at),
        facts=_facts(grid),
    )  # fmt: skip


def inline_markdown(text: str) -> str:
    """Emphasis, code and paragraphs; the rest stays as written."""
    html = escape(text, quote=False)
    for pattern, tag in ((r"`([^`]+)`", "code"), (r"\*\*(.+?)\*\*", "strong"), (r"\*(.+?)\*", "em")):
        html = re.sub(pattern, rf"<{tag}>\1</{tag}>", html)
    return re.sub(r"\n\s*\n", "<br><br>", html)


def _main_table(table: Table) -> str:
    grid, paper = table.grid, table.paper
    head = "".join(f'<th scope="col" data-sort>{escape(heading)}</th>' for heading in table.headings[1:])
    head += '<th scope="col" data-sort>FLOPs</th>' if table.flops else ""
    head += f'<th scope="col" class="paper wide">{escape(paper.heading)}</th>' if paper else ""
    lines = []
    for index, (row, (label, *texts)) in enumerate(zip(grid.rows, table.rows, strict=True)):
        cells = "".join(
            _cell(text, table.cells.get((row.name, column.protocol)))
            for text, column in zip(texts, grid.columns, strict=True)
        )
        if table.flops:
            cells += f'<td data-v="{row.flops["total"] if row.flops else ""}">{escape(table.flops[index])}</td>'
        cells += f'<td class="paper">{escape(paper.cells[row.name])}</td>' if paper else ""
        base = ' class="base"' if row.is_reference else ""
        lines.append(f'<tr{base}><th scope="row">{escape(label)}</th>{cells}</tr>')
    return _scrolling(f"<tr><th></th>{head}</tr>", "".join(lines))


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


def _spread(table: Table) -> str:
    if not table.spreads:
        return ""
    found = _dense_table(HEADINGS, spread_rows(table.spreads), text_columns=3)
    return f"<h2>Where the spread comes from</h2>{found}<p>{escape(spread_note(table.spreads))}</p>\n"


def _dense_table(headings: list[str], rows: list[list[str]], text_columns: int = 2) -> str:
    """The first columns are text, the others numbers."""

    def line(cells: list[str], tag: str) -> str:
        kinds = [' class="text"' if index < text_columns else "" for index in range(len(cells))]
        return "".join(f"<{tag}{kind}>{escape(cell)}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))

    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    return _scrolling(f"<tr>{line(headings, 'th')}</tr>", body, kind="dense")


def _scrolling(head: str, body: str, kind: str = "main") -> str:
    return f'<div class="scroll"><table class="{kind}"><thead>{head}</thead><tbody>{body}</tbody></table></div>'


def _figure(drawing: Drawing) -> str:
    """The drawing inline, in the page's colors, light or dark."""
    svg = drawing.svg[drawing.svg.index("<svg") :]
    for color, name in ON_PAGE.items():
        svg = svg.replace(color, f"var(--{name})")
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(drawing.name.replace("_", " "))}" ', 1)
    return f"<figure><div>{svg}</div><figcaption>{escape(drawing.caption)}</figcaption></figure>"


def _costs(grid: Grid) -> str:
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
    total = found.iloc[-1]  # of the whole grid
    return (
        f"<p>{duration(total['total_seconds'])} in {count(total['runs'], 'finished run')}. "
        "Time and images by row and kind:</p>"
        f"<details open><summary>Costs</summary>{_dense_table(list(shown.columns), shown.to_numpy().tolist())}</details>"
    )


def _sources(table: Table, runs_at: str | None) -> str:
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
                shown = f": {values[seed]!r}" if seed in values else ""
                lines.append(f"{escape(kind)}, seed {seed}: <code>{link}</code>{shown}{state}")
        parts.append(f"<details><summary>{escape(row.label)}</summary>{_list(lines)}</details>")
    parts.append("<p>Within a column, all numbers use one protocol and one data set:</p>")
    return "".join(parts) + _list(_column(grid, column) for column in grid.columns)


def _column(grid: Grid, column: Column) -> str:
    """Metric, protocol and data set: the last of its first result, as all of them agree."""
    records = (record for row in grid.rows for record in grid.runs(row, column.protocol).values())
    data = next((record.result["data"] for record in records if record.result), None)
    return (
        f"{escape(column.label)}: metric <code>{escape(column.metric)}</code>, "
        f"protocol <code>{escape(column.protocol)}</code>, fingerprint <code>{escape(column.fingerprint)}</code>"
        + (f", data {escape(data['name'])} <code>{escape(data['fingerprint'])}</code>" if data else "")
    )


def _facts(grid: Grid) -> str:
    span = days(grid)
    if not span:
        return "<p>No run was started yet.</p>"
    lines = [f"Runs started: {' to '.join(span)}"]
    for field, values in machine_facts(grid).items():
        shown = ", ".join(escape(v) if len(values) == 1 else f"{escape(v)} ({n} runs)" for v, n in values.items())
        lines.append(f"{escape(field)}: {shown}")
    return _list(lines)


def _list(items: Iterable[str]) -> str:
    lines = "".join(f"<li>{item}</li>" for item in items)
    return f"<ul>{lines}</ul>" if lines else ""
