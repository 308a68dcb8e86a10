"""The figures of a report, drawn with seaborn off any screen. SVG takes the page's colours; PNG is white."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mimbench.report.analysis import Analysis, Cell
from mimbench.report.colours import ACCENT, BASE, MUTED, STYLE
from mimbench.report.curves import learning_rates, pretraining, probe_layers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Drawing:
    name: str  # of its files
    caption: str
    svg: str
    png: bytes


def draw(analysis: Analysis) -> Iterator[Drawing]:
    """Every figure for which there are numbers."""
    import matplotlib as mpl
    import seaborn as sns

    style: dict[Any, Any] = {**sns.axes_style("whitegrid"), **STYLE}
    base = analysis.grid.compared_with
    figures: dict[str, tuple[Callable[[Analysis], Figure | None], str]] = {
        "intervals": (intervals, "Dots: seeds. Bar: mean and its 95 % t-interval over seeds. Where two bars overlap "
                      "says little; the paired differences below do."),
        "differences": (differences, f"Differences from {base}, seed by seed (dots), their mean and its 95 % "
                        "t-interval, without adjustment for the number of comparisons."),
        "pretraining": (pretraining, "Loss of pre-training over steps, a line a seed. Losses of different targets "
                        "have different scales: each panel has its own."),
        "probe_layers": (probe_layers, "Linear probe on each layer: mean over seeds, on the held-out images on which "
                         "the layer is chosen."),
        "learning_rates": (learning_rates, "Held-out score for each learning rate tried, mean over seeds. A curve "
                           "that still rises at its edge has not been tuned to its end."),
    }  # fmt: skip
    with mpl.rc_context(style):
        for name, (function, caption) in figures.items():
            figure = function(analysis)
            if figure is not None:
                yield Drawing(name, caption, _svg(figure, name), _png(figure))


def intervals(analysis: Analysis) -> Figure | None:
    """A panel a protocol: the mean and its interval, every seed below it."""

    def panel(axes: Axes, index: int, cell: Cell, colour: str) -> None:
        assert cell.summary is not None
        _dots(axes, index, list(cell.values.values()), colour)
        _bar(axes, index, cell.summary.mean, cell.summary.low, cell.summary.high, colour)

    return _panels(analysis, panel, lambda cell: cell.summary is not None, "")


def differences(analysis: Analysis) -> Figure | None:
    """A panel a protocol: the paired differences from each row's reference."""

    def panel(axes: Axes, index: int, cell: Cell, colour: str) -> None:
        assert cell.comparison is not None
        c = cell.comparison
        _dots(axes, index, [difference for _, difference in c.differences], colour)
        _bar(axes, index, c.difference, c.low, c.high, colour)
        axes.axvline(0, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)

    label = f"difference from {analysis.grid.compared_with}"
    return _panels(analysis, panel, lambda cell: cell.comparison is not None, label)


def _panels(
    analysis: Analysis, panel: Callable[[Axes, int, Cell, str], None], has: Callable[[Cell], bool], label: str
) -> Figure | None:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    grid = analysis.grid
    columns = [c for c in grid.columns if any(has(analysis.cell(row, c)) for row in grid.rows)]
    rows = [row for row in grid.rows if any(has(analysis.cell(row, c)) for c in columns)]
    if not columns:
        return None
    across = min(2, len(columns))
    down = math.ceil(len(columns) / across)
    figure = Figure(figsize=(4.6 * across, down * (0.38 * len(rows) + 1.1)))
    figure.set_layout_engine("constrained", h_pad=0.12, w_pad=0.08)
    grid_of_axes = figure.subplots(down, across, squeeze=False, sharey=True)
    for position, axes in enumerate(grid_of_axes.flat):
        if position >= len(columns):
            axes.remove()
            continue
        column = columns[position]
        for index, row in enumerate(rows):
            cell = analysis.cell(row, column)
            if has(cell):
                panel(axes, index, cell, BASE if row.is_reference else ACCENT)
        axes.set_title(column.heading)
        axes.set_xlabel(label)
        axes.set_yticks(range(len(rows)), [row.label for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.margins(x=0.08)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.grid(axis="y", visible=False)
        axes.tick_params(left=False)
    return figure


def _dots(axes: Axes, index: int, values: list[float], colour: str) -> None:
    import seaborn as sns

    sns.stripplot(x=values, y=[index + 0.24] * len(values), ax=axes, orient="h", native_scale=True, jitter=False,
                  color=colour, alpha=0.55, size=5, zorder=2)  # fmt: skip


def _bar(axes: Axes, index: int, mean: float, low: float | None, high: float | None, colour: str) -> None:
    if low is not None and high is not None:
        axes.plot([low, high], [index, index], color=colour, linewidth=2, zorder=3, solid_capstyle="round")
    axes.plot([mean], [index], marker="|", markersize=13, markeredgewidth=2.5, color=colour, zorder=4)


def _svg(figure: Figure, name: str) -> str:
    """The same bytes for the same numbers; the ids carry the figure's name, so that several fit in one page."""
    import matplotlib as mpl

    stream = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name, "svg.id": name}):
        figure.savefig(stream, format="svg", metadata=_undated())
    return stream.getvalue()


def _undated() -> dict[str, Any]:
    return {"Date": None, "Creator": None, "Format": None, "Type": None}


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    with contextlib.closing(stream):
        figure.savefig(stream, format="png", dpi=150, metadata={"Software": None})
        return stream.getvalue()
