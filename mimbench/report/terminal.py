"""The short table on stdout: rich on a terminal, plain aligned text anywhere else."""

from __future__ import annotations

import sys
from typing import TextIO

from mimbench.report.analysis import Analysis, analyse
from mimbench.report.published import paper_column
from mimbench.report.tables import legend, paper_note, text_rows, warning_of_one_seed
from mimbench.store.results import Store

ASCII = str.maketrans({"±": "+-", "↑": "^", "↓": "v", "−": "-", "–": "-"})


def print_table(store: Store, name: str, scale: str, stream: TextIO | None = None) -> None:
    """The table, with the note that must stand beside it."""
    stream = stream or sys.stdout
    analysis = analyse(store, name, scale)
    if stream.isatty():
        _print_rich(analysis, stream)
        return
    text = terminal_table(analysis)
    try:
        text.encode(stream.encoding or "utf-8")
    except UnicodeEncodeError:
        text = text.translate(ASCII).encode(stream.encoding, "replace").decode(stream.encoding)
    stream.write(text)


def terminal_table(analysis: Analysis) -> str:
    """Plain aligned text."""
    headings, rows = text_rows(analysis)
    lines = [headings, *rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(headings))]
    table = [_aligned(line, widths) for line in lines]
    table.insert(1, "-" * len(table[0]))
    grid = analysis.grid
    return "\n".join([f"{grid.title} ({grid.name}, {grid.scale})", "", *table, "", *_below(analysis)]) + "\n"


def _aligned(line: list[str], widths: list[int]) -> str:
    first, *others = (cell.rjust(width) for cell, width in zip(line, widths, strict=True))
    return "  ".join([first.strip().ljust(widths[0]), *others]).rstrip()


def _below(analysis: Analysis) -> list[str]:
    paper = paper_column(analysis.grid)
    texts = [
        warning_of_one_seed(analysis),
        analysis.grid.note.replace("**", "").replace("`", ""),
        *legend(analysis),
        paper_note(paper) if paper else "",
    ]
    return [text for text in texts if text]


def _print_rich(analysis: Analysis, stream: TextIO) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    headings, rows = text_rows(analysis)
    table = Table(title=Text(analysis.grid.title), title_justify="left", title_style="bold", header_style="")
    for index, heading in enumerate(headings):
        table.add_column(Text(heading), justify="right" if index else "left", overflow="fold")
    for row, cells in zip(analysis.grid.rows, rows, strict=True):
        table.add_row(
            *(Text(cell, style="bold" if row.is_reference and not index else "") for index, cell in enumerate(cells))
        )
    console = Console(file=stream)
    console.print(table)
    for text in _below(analysis):
        console.print(Text(text), style="dim")
