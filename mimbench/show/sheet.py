"""A sheet: the same images in columns, one row for each thing that is made of them, and plots below."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from mimbench.data.sources.places import BUILT_IN
from mimbench.report.colors import INK, MUTED, STYLE
from mimbench.report.shown import IMAGES, OURS
from mimbench.store.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DPI = 120
LABEL, CELL, GAP, MARGIN = 1.5, 1.0, 0.06, 0.12  # inches
TITLE, LINE, CAPTION, PLOTS = 0.34, 0.17, 0.19, 1.75
LEAST = 6.4  # width of a sheet: a title must fit


@dataclass(frozen=True)
class Strip:
    """A row of a sheet."""

    label: str
    cells: Sequence[np.ndarray]  # (h, w, 3) in [0, 1] each, of any resolution
    captions: Sequence[str] = ()  # below the cells


@dataclass(frozen=True)
class Sheet:
    title: str
    note: str
    strips: Sequence[Strip]
    heads: Sequence[str] = ()  # above the columns
    plots: Sequence[Callable[[Axes], None]] = ()  # below, side by side


def write_sheet(sheet: Sheet, path: Path, data: str) -> Path:
    """As a PNG that says whether its images are built in: others are not published (report/archive.py)."""
    buffer = io.BytesIO()
    style: dict[Any, Any] = {**STYLE, "figure.constrained_layout.use": False}
    text = {"Software": None, IMAGES: OURS if data in BUILT_IN else "others"}
    with mpl.rc_context(style):
        _drawn(sheet).savefig(buffer, format="png", dpi=DPI, metadata=text)
    write_atomically(path, buffer.getvalue())
    return path


def _drawn(sheet: Sheet) -> Figure:
    columns = max((len(strip.cells) for strip in sheet.strips), default=0)
    width = max(LEAST, MARGIN + LABEL + columns * (CELL + GAP) + MARGIN)
    notes = textwrap.wrap(sheet.note.replace(" %", "\N{NO-BREAK SPACE}%"), int(width * 14.5))
    heights = [CELL + GAP + (CAPTION if strip.captions else 0) for strip in sheet.strips]
    top = MARGIN + TITLE + LINE * len(notes) + (CAPTION if sheet.heads else 0) + 0.08
    height = top + sum(heights) + (PLOTS + 0.15 if sheet.plots else 0) + MARGIN
    figure = Figure(figsize=(width, height))
    write = _writer(figure, width, height)
    write(MARGIN, MARGIN + TITLE / 2, sheet.title, weight="bold", fontsize=11)
    for line, note in enumerate(notes):
        write(MARGIN, MARGIN + TITLE + LINE * (line + 0.5), note, color=MUTED, fontsize=8.5)
    lefts = [MARGIN + LABEL + column * (CELL + GAP) for column in range(columns)]
    for left, head in zip(lefts, sheet.heads, strict=False):
        write(left + CELL / 2, top - CAPTION / 2 - 0.02, head, ha="center", fontsize=8, color=MUTED)
    for strip, tall in zip(sheet.strips, heights, strict=True):
        write(MARGIN + LABEL - 0.1, top + CELL / 2, "\n".join(textwrap.wrap(strip.label, 22)), ha="right", fontsize=9)
        for left, cell in zip(lefts, strip.cells, strict=False):
            axes = figure.add_axes((left / width, 1 - (top + CELL) / height, CELL / width, CELL / height))
            axes.set_axis_off()
            axes.imshow(np.clip(cell, 0, 1), interpolation="nearest", aspect="auto")
        for left, caption in zip(lefts, strip.captions, strict=False):
            write(left + CELL / 2, top + CELL + CAPTION / 2, caption, ha="center", fontsize=8, color=MUTED)
        top += tall
    _plot(figure, sheet.plots, top + 0.15, width, height)
    return figure


def _writer(figure: Figure, width: float, height: float) -> Callable[..., Any]:
    """Text at inches from the left and the top."""

    def write(x: float, y: float, text: str, **style: Any) -> None:
        figure.text(x / width, 1 - y / height, text, **{"va": "center", "color": INK, **style})

    return write


def _plot(figure: Figure, plots: Sequence[Callable[[Axes], None]], top: float, width: float, height: float) -> None:
    left, room = MARGIN + LABEL, width - 2 * MARGIN - LABEL
    for index, plot in enumerate(plots):
        place = left + index * room / len(plots), room / len(plots) - 0.6
        inner = PLOTS - 0.6  # below a title, above the name of the axis
        plot(figure.add_axes((place[0] / width, 1 - (top + 0.2 + inner) / height, place[1] / width, inner / height)))
