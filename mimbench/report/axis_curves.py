"""Scores along the numeric axes of a grid: what `axes:` varies, drawn as curves instead of rows."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from mimbench.report.analysis import Analysis, Cell
from mimbench.report.collect import Row
from mimbench.report.sheet import ARTIST, LEGEND_LINE, WIDE, Sheet

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_LINES = 12  # in a panel: more cannot be told from one another
Line = list[tuple[float, Row]]  # along the axis


def axis_curves(analysis: Analysis, sheet: Sheet = WIDE) -> Figure | None:
    """One panel per axis and protocol that has numbers."""
    panels = [
        (axis, column, lines)
        for axis, lines in _lines_by_axis(analysis.grid.rows).items()
        for column in analysis.grid.columns
        if any(_cell(analysis, row, column.protocol) for line in lines.values() for _, row in line)
    ]
    if not panels:
        return None
    most = max(len(lines) for _, _, lines in panels)
    figure, axes_list = sheet.panels(len(panels), 3.2 if sheet.legend_below else max(3.2, LEGEND_LINE * most))
    handles: dict[str, Artist] = {}
    for axes, (axis, column, lines) in zip(axes_list, panels, strict=True):
        handles |= _draw(axes, analysis, column.protocol, lines, sheet)
        axes.set(xlabel=axis, title=column.heading)
    if len(handles) > 1:
        sheet.legend(figure, handles)
    return figure


def _lines_by_axis(rows: list[Row]) -> dict[str, dict[str, Line]]:
    """Axis -> what else is chosen, in words -> rows along it. Of axes with two different numbers or more."""
    found: dict[str, dict[str, Line]] = {}
    for axis in dict.fromkeys(axis for row in rows for axis in row.point):
        lines: dict[str, Line] = {}
        for row in rows:
            if _is_number(row.point.get(axis)):
                others = [f"{key}={value}" for key, value in row.point.items() if key != axis]
                words = ", ".join([row.label.rpartition(" (")[0] or row.label, *others])
                lines.setdefault(words, []).append((float(row.point[axis]), row))
        curves = {words: sorted(line, key=lambda item: item[0]) for words, line in lines.items() if len(line) > 1}
        if curves:
            found[axis] = dict(itertools.islice(curves.items(), MOST_LINES))
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(analysis: Analysis, row: Row, protocol: str) -> Cell | None:
    cell = analysis.cells.get((row.name, protocol))
    return cell if cell and cell.summary else None


def _draw(axes: Axes, analysis: Analysis, protocol: str, lines: dict[str, Line], sheet: Sheet) -> dict[str, Artist]:
    """Means as lines, intervals as bands. A line's id is of its first row."""
    import seaborn as sns

    drawn: dict[str, Artist] = {}
    for (words, line), color in zip(lines.items(), sns.color_palette("colorblind", len(lines)), strict=True):
        points = [(x, cell.summary) for x, row in line if (cell := _cell(analysis, row, protocol)) and cell.summary]
        if not points:
            continue
        name = line[0][1].name
        (drawn[name],) = axes.plot([x for x, _ in points], [summary.mean for _, summary in points], color=color, marker="o",
                                   markersize=5, label=sheet.wrapped(words), gid=ARTIST + name)  # fmt: skip
        bands = [(x, s.low, s.high) for x, s in points if s.low is not None and s.high is not None]
        if len(bands) > 1:
            places, lows, highs = zip(*bands, strict=True)
            axes.fill_between(places, lows, highs, color=color, alpha=0.15, linewidth=0, gid=ARTIST + name)
    return drawn
