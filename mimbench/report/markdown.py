"""The table as markdown. Bytes follow from the records alone: no times, no hosts."""

from __future__ import annotations

from collections.abc import Iterable

from mimbench.inert import for_markdown
from mimbench.report.cells import LONG
from mimbench.report.choices import CHOSEN, choices
from mimbench.report.format import count
from mimbench.report.notices import result_notices
from mimbench.report.promises import NOTE, PROMISES, TITLE, promises
from mimbench.report.table import Table
from mimbench.report.variance import HEADINGS, spread_note, spread_rows


def markdown(table: Table) -> str:
    grid = table.grid
    notices = result_notices(grid)
    parts = [
        f"# {grid.title}",
        f"Grid `{grid.name}`, scale `{grid.scale}`, {count(len(grid.seeds), 'seed')} planned.",
        grid.note,
        f"**{table.warning}**" if table.warning else "",
        _lines(*table.whole(), text_columns=1),
        " ".join(table.legend),
        table.paper_note,
        _list(f"{row.label}: {row.description}" for row in grid.rows if row.description),
        f"## All numbers, and differences from {grid.compared_with}",
        _lines(LONG, table.long_rows, text_columns=2),
        *_promises(table),
        "## Chosen on held-out images",
        _lines(CHOSEN, choices(grid), text_columns=3),
        *_spread(table),
        "## Flags\n\n" + _list(notices) if notices else "",
    ]
    return for_markdown("\n\n".join(part for part in parts if part)) + "\n"


def _promises(table: Table) -> list[str]:
    found = promises(table)
    return [f"## {TITLE}", _lines(PROMISES, found, text_columns=3), NOTE] if found else []


def _spread(table: Table) -> list[str]:
    if not table.spreads:
        return []
    found = _lines(HEADINGS, spread_rows(table.spreads), text_columns=3)
    return ["## Where the spread comes from", found, spread_note(table.spreads)]


def _lines(headings: list[str], rows: list[list[str]], text_columns: int) -> str:
    rule = ["---" if index < text_columns else "---:" for index in range(len(headings))]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |"
        for line in [headings, rule, *rows]
    )


def _list(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)
