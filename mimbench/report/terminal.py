"""The short table on stdout: rich on a terminal, plain aligned text elsewhere."""

from __future__ import annotations

import sys
from typing import TextIO

from mimbench.report.legend import short_legend
from mimbench.report.table import Table

BORDERS = 3  # characters per column of a drawn table
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

    console = Console(file=stream)
    headings, rows, widths = _fitted(table, console.width)
    drawn = RichTable(title=Text(table.grid.title), title_justify="left", title_style="bold", header_style="")
    for index, (heading, width) in enumerate(zip(headings, widths, strict=True)):
        drawn.add_column(Text(heading), justify="right" if index else "left", overflow="fold", width=width)
    for row, (label, *cells) in zip(table.grid.rows, rows, strict=True):
        drawn.add_row(Text(label, style="bold" if row.is_reference else ""), *map(Text, cells))
    console.print(drawn)
    for text in _below(table):
        console.print(Text(text), style="dim")


def _fitted(table: Table, available: int) -> tuple[list[str], list[list[str]], list[int | None]]:
    """Without what stands beside the measured numbers where it does not fit, in columns that break no word if that can be."""
    from rich.cells import cell_len

    headings, rows = table.whole()
    columns = list(zip(headings, *rows, strict=True))
    words = [max(cell_len(word) for text in column for word in text.replace(" ±", "_±").split()) for column in columns]
    whole = [max(word, *map(cell_len, column[1:])) for word, column in zip(words, columns, strict=True)]
    while len(columns) > len(table.headings) and _drawn(whole[: len(columns)]) > available:
        columns.pop()
    headings, rows = headings[: len(columns)], [row[: len(columns)] for row in rows]
    if _drawn([max(map(cell_len, column)) for column in columns]) <= available:
        return headings, rows, [None] * len(columns)
    widths = words[: len(columns)]
    for index in (*range(1, len(columns)), 0):  # numbers first
        widths[index] += min(max(available - _drawn(widths), 0), whole[index] - widths[index])
    return headings, rows, [*widths]


def _drawn(widths: list[int]) -> int:
    return sum(widths) + BORDERS * len(widths) + 1
