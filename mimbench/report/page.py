"""index.html: one file that needs nothing else, light or dark, on a phone or on paper."""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Iterable
from html import escape
from string import Template

from mimbench.report.analysis import Analysis, Cell
from mimbench.report.colours import ACCENT, BASE, FAINT, INK, MUTED, PAPER
from mimbench.report.costs import ALL_ROWS, costs
from mimbench.report.figures import Drawing
from mimbench.report.format import duration
from mimbench.report.notices import days, machine_facts, machine_notices, result_notices, run_notices
from mimbench.report.published import PaperColumn, paper_column
from mimbench.report.tables import (
    DASH,
    LONG,
    cell_text,
    difference_text,
    legend,
    long_rows,
    p_text,
    paper_note,
    warning_of_one_seed,
)


def page(analysis: Analysis, drawings: Iterable[Drawing], *, runs_at: str | None = "../../runs") -> str:
    """The whole report. `runs_at`: where the page finds the run folders, if it lies beside them."""
    grid, paper = analysis.grid, paper_column(analysis.grid)
    template = importlib.resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    done = sum(record.state == "done" for record in grid.records.values())
    warning = warning_of_one_seed(analysis)
    flags = result_notices(grid) + run_notices(grid) + machine_notices(grid)
    return Template(template).substitute(
        title=escape(grid.title),
        scale=escape(grid.scale),
        base=escape(grid.compared_with),
        subtitle=f"Grid <code>{escape(grid.name)}</code> ({escape(grid.config)}), scale "
        f"<code>{escape(grid.scale)}</code>, {_count(len(grid.seeds), 'seed')}, "
        f"{done} of {_count(len(grid.records), 'run')} done.",
        note=f'<p class="note">{inline_markdown(grid.note)}</p>' if grid.note else "",
        warnings=f'<p class="warn"><strong>{escape(warning)}</strong></p>' if warning else "",
        table=_main_table(analysis, paper),
        legend=escape(" ".join(legend(analysis))),
        paper=f'<p class="soft">{escape(paper_note(paper))}</p>' if paper else "",
        rows=_list(f"<strong>{escape(row.label)}</strong>: {escape(row.description)}" for row in grid.rows
                   if row.description),
        figures="\n".join(map(_figure, drawings)) or "<p>No finished run yet.</p>",
        long=_table(LONG, long_rows(analysis), text_columns=2),
        flags="<h2>Flags and warnings</h2>" + _list(map(escape, flags)) if flags else "",
        costs=_costs(analysis),
        sources=_sources(analysis, runs_at),
        facts=_facts(analysis),
    )  # fmt: skip


def inline_markdown(text: str) -> str:
    """Emphasis, code and paragraphs; anything else stays as written."""
    html = escape(text, quote=False)
    for pattern, tag in ((r"`([^`]+)`", "code"), (r"\*\*(.+?)\*\*", "strong"), (r"\*(.+?)\*", "em")):
        html = re.sub(pattern, rf"<{tag}>\1</{tag}>", html)
    return re.sub(r"\n\s*\n", "<br><br>", html)


def _main_table(analysis: Analysis, paper: PaperColumn | None) -> str:
    grid = analysis.grid
    head = "".join(f'<th scope="col" data-sort>{escape(column.heading)}</th>' for column in grid.columns)
    head += f'<th scope="col" class="paper wide">{escape(paper.heading)}</th>' if paper else ""
    lines = []
    for row in grid.rows:
        cells = "".join(_cell(analysis.cell(row, column), len(grid.seeds)) for column in grid.columns)
        cells += f'<td class="paper">{escape(paper.cells[row.name] or DASH)}</td>' if paper else ""
        base = ' class="base"' if row.is_reference else ""
        lines.append(f'<tr{base}><th scope="row">{escape(row.label)}</th>{cells}</tr>')
    return _scrolling(f"<tr><th></th>{head}</tr>", "".join(lines))


def _cell(cell: Cell, seeds: int) -> str:
    text, comparison = escape(cell_text(cell, seeds)), cell.comparison
    if cell.summary is None:
        return f'<td data-v="">{text}</td>'
    small = ""
    if comparison is not None:
        mark = comparison.verdict if comparison.verdict in ("higher", "lower") else ""
        p = comparison.p if comparison.primary else comparison.p_holm
        tested = f", p {_equals(p_text(p))}" if p is not None else ""
        small = f'<small class="{mark}">{escape(difference_text(cell))}{tested}</small>'
    return f'<td data-v="{cell.summary.mean!r}">{text}{small}</td>'


def _equals(text: str) -> str:
    return text.replace("<", "&lt; ") if text.startswith("<") else f"= {text}"


def _table(headings: list[str], rows: list[list[str]], text_columns: int) -> str:
    def line(cells: list[str], tag: str) -> str:
        kinds = [' class="text"' if index < text_columns else "" for index in range(len(cells))]
        return "".join(f"<{tag}{kind}>{escape(cell)}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))

    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    return _scrolling(f"<tr>{line(headings, 'th')}</tr>", body, kind="dense")


def _scrolling(head: str, body: str, kind: str = "main") -> str:
    return f'<div class="scroll"><table class="{kind}"><thead>{head}</thead><tbody>{body}</tbody></table></div>'


def _figure(drawing: Drawing) -> str:
    """The drawing inline, in the page's colours, so that it follows light and dark."""
    svg = drawing.svg[drawing.svg.index("<svg") :]
    for colour, name in ((INK, "ink"), (FAINT, "faint"), (PAPER, "paper"), (ACCENT, "accent"), (BASE, "base"),
                         (MUTED, "muted")):  # fmt: skip
        svg = svg.replace(colour, f"var(--{name})")
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(drawing.name.replace("_", " "))}" ', 1)
    return f"<figure><div>{svg}</div><figcaption>{escape(drawing.caption)}</figcaption></figure>"


def _costs(analysis: Analysis) -> str:
    labels = {row.name: row.label for row in analysis.grid.rows} | {ALL_ROWS: ALL_ROWS}
    found = costs(analysis.grid)
    if not found:
        return "<p>No finished run yet.</p>"
    rows = [
        [labels[cost.row], cost.kind, str(cost.runs), duration(cost.mean_seconds), f"{cost.mean_images:,.0f}",
         duration(cost.total_seconds), f"{cost.total_images:,}",
         "" if cost.peak_memory_bytes is None else f"{cost.peak_memory_bytes / 2**20:,.0f} MiB",
         "" if cost.energy_joules is None else f"{cost.energy_joules / 3600:,.1f} Wh"]
        for cost in found
    ]  # fmt: skip
    headings = ["Row", "Kind", "Runs", "Mean time", "Mean images", "Total time", "Total images", "Peak memory",
                "Energy"]  # fmt: skip
    total = next(cost for cost in found if cost.row == ALL_ROWS and cost.kind == "all")
    summary = f"{duration(total.total_seconds)} of work in {_count(total.runs, 'finished run')}."
    table = _table(headings, rows, text_columns=2)
    return f"<p>{summary} Time and images by row and kind:</p><details open><summary>Costs</summary>{table}</details>"


def _sources(analysis: Analysis, runs_at: str | None) -> str:
    grid = analysis.grid
    kinds = grid.kinds()
    columns = {column.protocol: column for column in grid.columns}
    parts = []
    for row in grid.rows:
        lines = []
        for kind in kinds:
            for seed, record in grid.runs(row, kind).items():
                name = escape(record.name)
                link = f'<a href="{runs_at}/{name}/">{name}</a>' if runs_at else name
                value = ""
                if record.result is not None and kind in columns:
                    value = f": {record.result['metrics'][columns[kind].metric]!r}"
                state = "" if record.state == "done" else f" ({record.state})"
                lines.append(f"{escape(kind)}, seed {seed}: <code>{link}</code>{value}{state}")
        parts.append(f"<details><summary>{escape(row.label)}</summary>{_list(lines)}</details>")
    rulers = _list(
        f"{escape(c.label)}: metric <code>{escape(c.metric)}</code>, protocol <code>{escape(c.protocol)}</code>, "
        f"fingerprint <code>{escape(c.fingerprint or 'not recorded')}</code>" + _data(analysis, c.protocol)
        for c in grid.columns
    )
    return "".join(parts) + "<p>All numbers of a column were measured by one protocol on one data set:</p>" + rulers


def _data(analysis: Analysis, protocol: str) -> str:
    """The data that a column was measured on; one, since a column that mixes two is refused."""
    grid = analysis.grid
    found = (r.result.get("data") or {} for row in grid.rows for r in grid.runs(row, protocol).values() if r.result)
    data = next(found, {})
    return (
        f", data {escape(str(data['name']))} <code>{escape(str(data.get('fingerprint')))}</code>"
        if data.get("name")
        else ""
    )


def _facts(analysis: Analysis) -> str:
    span, facts = days(analysis.grid), machine_facts(analysis.grid)
    if span is None:
        return "<p>No run was started yet.</p>"
    when = span[0] if span[0] == span[1] else f"{span[0]} to {span[1]}"
    lines = [f"Runs started: {when}"]
    for field, values in facts.items():
        shown = ", ".join(escape(v) if len(values) == 1 else f"{escape(v)} ({n} runs)" for v, n in values.items())
        lines.append(f"{escape(field)}: {shown}")
    return _list(lines)


def _list(items: Iterable[str]) -> str:
    lines = "".join(f"<li>{item}</li>" for item in items)
    return f"<ul>{lines}</ul>" if lines else ""


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
