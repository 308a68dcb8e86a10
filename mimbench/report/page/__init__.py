"""index.html: one self-contained file, light or dark, for a phone or for paper, readable without JavaScript."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from string import Template

from mimbench.report.cells import LONG
from mimbench.report.choices import CHOSEN, choices
from mimbench.report.curves import damaged_curves
from mimbench.report.figures import Drawing
from mimbench.report.findings import findings
from mimbench.report.format import count
from mimbench.report.notices import machine_notices, result_notices, run_notices
from mimbench.report.page.assets import asset
from mimbench.report.page.data import as_script, page_data
from mimbench.report.page.sections import (
    cost_section,
    cost_summary,
    dense_table,
    facts,
    figure,
    folded,
    html_list,
    inline_markdown,
    main_table,
    promises_section,
    sources,
    spread_section,
)
from mimbench.report.pictures import Picture
from mimbench.report.table import Table

SCRIPTS = ("dom", "statistics", "analysis", "format", "state", "table", "row", "main")  # in the order in which they run


def page(
    table: Table,
    drawings: Iterable[Drawing],
    *,
    runs_at: str | None = "../../runs",
    pictures: Mapping[str, list[Picture]] | None = None,
) -> str:
    """The whole report. `runs_at`: the path from the page to the run folders, if they lie beside it."""
    grid = table.grid
    done = sum(record.state == "done" for record in grid.records.values())
    flags = result_notices(grid) + run_notices(grid) + damaged_curves(grid) + machine_notices(grid)
    return Template(asset("page.html")).substitute(
        style=asset("base.css") + asset("page.css"),
        script="\n".join(asset(f"{name}.js") for name in SCRIPTS),
        data=as_script(page_data(table, runs_at, pictures or {})),
        title=escape(grid.title),
        scale=escape(grid.scale),
        base=escape(grid.compared_with),
        counted=grid.unit,
        subtitle=f"Grid <code>{escape(grid.name)}</code> ({escape(grid.config)}), scale "
        f"<code>{escape(grid.scale)}</code>, {count(len(grid.seeds), 'seed')}, "
        f"{done} of {count(len(grid.records), 'run')} done.",
        note=f'<p class="note">{inline_markdown(grid.note)}</p>' if grid.note else "",
        warnings=f'<p class="warn"><strong>{escape(table.warning)}</strong></p>' if table.warning else "",
        findings=html_list(map(escape, findings(table)), kind="findings"),
        table=main_table(table),
        legend=escape(" ".join(table.legend)),
        paper=f'<p class="soft">{escape(table.paper_note)}</p>' if table.paper_note else "",
        rows=html_list(f"<strong>{escape(row.label)}</strong>: {escape(row.description)}" for row in grid.rows
                       if row.description),
        figures="\n".join(map(figure, drawings)) or "<p>No finished runs yet.</p>",
        long=dense_table(LONG, table.long_rows, "All numbers"),
        choices=dense_table(CHOSEN, choices(grid), "Choices", text_columns=3),
        promises=promises_section(table),
        spread=spread_section(table),
        flags=folded(f"Flags and warnings ({len(flags)})", html_list(map(escape, flags))) if flags else "",
        cost_summary=cost_summary(grid),
        costs=cost_section(grid),
        sources=sources(table, runs_at),
        facts=facts(grid),
    )  # fmt: skip
