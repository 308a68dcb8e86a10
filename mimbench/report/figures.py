"""The figures of a report, drawn with seaborn, without a display. SVG takes the colors of the page; PNG is white."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mimbench.report.analysis import Analysis
from mimbench.report.axis_curves import axis_curves
from mimbench.report.collect import Row
from mimbench.report.colors import ACCENT, BASE, MUTED, STYLE
from mimbench.report.compute import score_against_flops
from mimbench.report.curves import epochs, learning_rates, pretraining, probe_layers
from mimbench.report.sheet import ARTIST, NARROW, WIDE, Sheet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_ROWS = 40  # in a figure: more cannot be read, and take minutes to draw; the table has all
Dots = tuple[list[float], float, float | None, float | None]  # of each seed; mean; interval


@dataclass(frozen=True)
class Drawing:
    name: str  # of its files
    caption: str
    svg: str
    png: bytes
    narrow: str  # the SVG for a phone


def draw(analysis: Analysis) -> Iterator[Drawing]:
    """All figures that have data."""
    import matplotlib as mpl
    import seaborn as sns

    style: dict[Any, Any] = {**sns.axes_style("whitegrid"), **STYLE}
    base, dots = analysis.grid.compared_with, f"Dots: {analysis.grid.unit}s."
    figures: dict[str, tuple[Callable[[Analysis, Sheet], Figure | None], str]] = {
        "axes": (axis_curves, f"Score along the axes of the grid, one line for each choice of the others. Bands: 95 % CI over "
                 f"{analysis.grid.unit}s."),
        "intervals": (intervals, f"{dots} Bars: mean ± 95 % CI over {analysis.grid.unit}s. Whether two bars overlap is not a test; "
                      "see the paired differences below."),
        "differences": (differences, f"Paired differences from {base}. {dots} Bars: mean ± 95 % CI, not "
                        "adjusted for the number of comparisons."),
        "compute": (score_against_flops, f"Score against the FLOPs of a row's whole training, with all that is trained for it. "
                    f"Mean ± 95 % CI over {analysis.grid.unit}s."),
        "pretraining": (pretraining, "Pre-training loss over steps, one line per seed. Losses of different targets "
                        "have different scales, so each panel has its own."),
        "probe_layers": (probe_layers, "Linear probe by layer: held-out score, mean over seeds. The layer is chosen on "
                         "these held-out images."),
        "epochs": (epochs, "Held-out score after each epoch of training at the chosen learning rate, mean over seeds: how fast a "
                   "row learns."),
        "learning_rates": (learning_rates, "Held-out score by learning rate, mean over seeds that did not diverge. If the best "
                           "rate is at the edge, the sweep was too narrow."),
    }  # fmt: skip
    first, rows = _first_rows(analysis), len(analysis.grid.rows)
    shown = f" The figure shows {len(first.grid.rows)} of {rows} rows." if len(first.grid.rows) < rows else ""
    with mpl.rc_context(style):
        for name, (function, caption) in figures.items():
            figure, narrow = (function(first, sheet) for sheet in (WIDE, NARROW))
            if figure is not None and narrow is not None:
                yield Drawing(name, caption + shown, _svg(figure, name), _png(figure), _svg(narrow, f"{name}_narrow"))


def _first_rows(analysis: Analysis) -> Analysis:
    """The first rows, and the one that the grid compares with."""
    rows = [row for index, row in enumerate(analysis.grid.rows) if index < MOST_ROWS or row.name == analysis.grid.base]
    names = {row.name for row in rows}
    cells = {place: cell for place, cell in analysis.cells.items() if place[0] in names}
    return Analysis(replace(analysis.grid, rows=rows), cells)


def intervals(analysis: Analysis, sheet: Sheet = WIDE) -> Figure | None:
    """One panel per protocol: mean, interval and what they are of."""
    dots = {place: (list(cell.replicates.values()), cell.summary.mean, cell.summary.low, cell.summary.high)
            for place, cell in analysis.cells.items() if cell.summary}  # fmt: skip
    return _panels(analysis, dots, "", sheet)


def differences(analysis: Analysis, sheet: Sheet = WIDE) -> Figure | None:
    """One panel per protocol: the paired differences from each row's reference."""
    compared = {place: cell.comparison for place, cell in analysis.cells.items() if cell.comparison}
    dots = {place: ([difference for _, difference in c.differences], c.difference, c.low, c.high)
            for place, c in compared.items()}  # fmt: skip
    figure = _panels(analysis, dots, sheet.wrapped(f"difference from {analysis.grid.compared_with}"), sheet)
    for axes in figure.axes if figure else ():
        axes.axvline(0, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    return figure


def _panels(analysis: Analysis, dots: dict[tuple[str, str], Dots], label: str, sheet: Sheet) -> Figure | None:
    """One panel per protocol. `dots`: by row and protocol."""
    from matplotlib.ticker import MaxNLocator

    columns = [c for c in analysis.grid.columns if any(protocol == c.protocol for _, protocol in dots)]
    rows = [row for row in analysis.grid.rows if any(name == row.name for name, _ in dots)]
    if not columns:
        return None
    labels = [sheet.wrapped(row.label) for row in rows]
    line = 0.38 + 0.16 * max(label.count("\n") for label in labels)
    figure, axes_list = sheet.panels(len(columns), height=line * len(rows) + 1.1, sharey=True)
    figure.set_layout_engine("constrained", h_pad=0.12, w_pad=0.08)
    for axes, column in zip(axes_list, columns, strict=True):
        for index, row in enumerate(rows):
            if (row.name, column.protocol) in dots:
                _draw(axes, index, row, *dots[row.name, column.protocol])
        axes.set_title(column.heading)
        axes.set_xlabel(label)
        axes.set_yticks(range(len(rows)), labels)
        for row, text in zip(rows, axes.get_yticklabels(), strict=False):
            text.set_gid(ARTIST + row.name)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.margins(x=0.08)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.grid(axis="y", visible=False)
        axes.tick_params(left=False)
    return figure


def _draw(
    axes: Axes, index: int, row: Row, values: list[float], mean: float, low: float | None, high: float | None
) -> None:
    """The mean and its interval as a bar, the seeds as dots below it."""
    style: dict[str, Any] = {"color": BASE if row.is_reference else ACCENT, "gid": ARTIST + row.name}
    axes.plot(values, [index + 0.24] * len(values), "o", alpha=0.55, markersize=5, markeredgewidth=0, zorder=2, **style)
    if low is not None and high is not None:
        axes.plot([low, high], [index, index], linewidth=2, zorder=3, solid_capstyle="round", **style)
    axes.plot([mean], [index], marker="|", markersize=13, markeredgewidth=2.5, zorder=4, **style)


def _svg(figure: Figure, name: str) -> str:
    """The same bytes for the same numbers. Ids carry the figure's name, so that one page can hold several."""
    import matplotlib as mpl

    stream, undated = io.StringIO(), dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with mpl.rc_context({"svg.hashsalt": name, "svg.id": name}):
        figure.savefig(stream, format="svg", metadata=undated)
    figure.set_layout_engine("none")  # as it lies: laying it out again for the PNG takes as long as drawing it
    return stream.getvalue()


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=150, metadata={"Software": None})
    return stream.getvalue()
