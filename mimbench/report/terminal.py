"""The short table on stdout: rich on a terminal, plain aligned text elsewhere."""

from __future__ import annotations

import sys
from typing import TextIO

from mimbench.report.legend import short_legend
from mimbench.report.table import Table

ASCII = str.maketrans({"±": "+-", "↑": "^", "↓": "v", "−": "-", "–": "-"})


def print_table(table: Table, stream: TextIO | None = None) -> None:
    """The table and the notes below it."""
    stream = stream or sys.stdout
    if stream.isatty():
        _print_rich(table, stream)
        return
    text = plain_text(table)
    try:
        text.encode(stream.encoding or "utf-8")
    except UnicodeEncodeError:
        text = text.translate(ASCII).encode(stream.encoding, "replace").decode(stream.encoding)
    stream.write(text)


def plain_text(table: Table) -> str:
    headings, rows = table.whole()
    widths = [max(map(len, cells)) for cells in zip(headings, *rows, strict=True)]
    lines = [_aligned(line, widths) for line in [headings, *rows]]
    lines.insert(1, "-" * len(lines[0]))
    grid = table.grid
    return "\n".join([f"{grid.title} ({grid.name}, {grid.scale})", "", *lines, "", *_below(table)]) + "\n"


def _aligned(line: list[str], widths: list[int]) -> str:
    first, *others = (cell.rjust(width) for cell, width in zip(line, widths, strict=True))
    return "  ".join([first.strip().ljust(widths[0]), *others]).rstrip()


def _below(table: Table) -> list[str]:
    """What a reader needs at the prompt; the whole legend and the sources stand in the report."""
    note = table.grid.note.replace("**", "").replace("`", "")
    return [text for text in (table.warning, note, "" if table.warning else short_legend(table.grid)) if text]


def _print_rich(table: Table, stream: TextIO) -> None:
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    headings, rows = table.whole()
    drawn = RichTable(title=Text(table.grid.title), title_justify="left", title_style="bold", header_style="")
    for index, heading in enumerate(headings):
        drawn.add_column(Text(heading), justify="right" if index else "left", overflow="fold")
    for row, (label, *cells) in zip(table.grid.rows, rows, strict=True):
        drawn.add_row(Text(label, style="bold" if row.is_reference else ""), *map(Text, cells))
    console = Console(file=stream)
    console.print(drawn)
    for text in _below(table):
        console.print(Text(text), style="dim")
