"""The column of FLOPs, of each row's whole training, and the scores against them."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from mimbench.report.analysis import Analysis
from mimbench.report.collect import Grid, Row
from mimbench.report.format import DASH, flops
from mimbench.report.sheet import ARTIST, LEGEND_LINE, WIDE, Sheet

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

HEADING = "FLOPs"


def flops_column(grid: Grid) -> list[str] | None:
    """The text of each row; None where nothing was counted."""
    return [_text(row, grid) for row in grid.rows] if _were_counted(grid) else None


def flops_note(grid: Grid) -> list[str]:
    """What the column holds."""
    if not _were_counted(grid):
        return []
    unit = _unit(grid)
    external = any(row.flops and row.flops["external"] for row in grid.rows)
    return [
        "FLOPs: matrix products, convolutions and attention of a row's whole training for one seed, forward and backward, with "
        "all that is trained for it (tokenizer, teacher, earlier stages; in full for each row that shares them)."
        + (f" In brackets: relative to {unit.label}." if unit else "")
        + (" + external: it also builds on weights from elsewhere, whose FLOPs are not known." if external else "")
    ]


def _were_counted(grid: Grid) -> bool:
    return any(row.flops is not None for row in grid.rows)


def _unit(grid: Grid) -> Row | None:
    """The row that others are relative to: the reference, or else the first one that is trained."""
    trained = {row.name: row for row in grid.rows if row.flops and row.flops["total"]}
    return trained.get(grid.base) or next(iter(trained.values()), None)


def _text(row: Row, grid: Grid) -> str:
    """`12.3 T (0.84) + external`."""
    if row.flops is None:
        return DASH
    unit, own = _unit(grid), row.flops["total"]
    relative = f" ({own / unit.flops['total']:.2f})" if own and unit and unit.flops else ""
    return flops(own) + relative + (" + external" if row.flops["external"] else "")


def score_against_flops(analysis: Analysis, sheet: Sheet = WIDE) -> Figure | None:
    """One panel per protocol, one point per row that is trained."""
    import seaborn as sns
    from matplotlib.ticker import FuncFormatter, NullFormatter

    rows = [row for row in analysis.grid.rows if row.flops and row.flops["total"]]
    columns = [c for c in analysis.grid.columns if any(_has_number(analysis, row, c.protocol) for row in rows)]
    if len({row.flops["total"] for row in rows if row.flops}) < 2 or not columns:
        return None
    totals = [row.flops["total"] for row in rows if row.flops]
    scale = "log" if max(totals) > 10 * min(totals) else "linear"
    height = 3.2 if sheet.legend_below else max(3.2, LEGEND_LINE * len(rows))
    figure, axes_list = sheet.panels(len(columns), height)
    colors = sns.color_palette("colorblind", len(rows))
    handles: dict[str, Artist] = {}
    for axes, column in zip(axes_list, columns, strict=True):
        for row, color, marker in zip(rows, colors, itertools.cycle("osD^vPX*hd"), strict=False):
            if not (row.flops and _has_number(analysis, row, column.protocol)):
                continue
            summary = analysis.cells[row.name, column.protocol].summary
            assert summary is not None
            x, gid = row.flops["total"], ARTIST + row.name
            if summary.low is not None and summary.high is not None:
                axes.plot([x, x], [summary.low, summary.high], color=color, linewidth=1.5, gid=gid)
            (handles[row.name],) = axes.plot(
                [x], [summary.mean], color=color, marker=marker, linestyle="", label=sheet.wrapped(row.label), gid=gid)  # fmt: skip
        axes.set(xscale=scale, xlabel="FLOPs", title=column.heading)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: flops(value)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    sheet.legend(figure, handles)
    return figure


def _has_number(analysis: Analysis, row: Row, protocol: str) -> bool:
    cell = analysis.cells.get((row.name, protocol))
    return cell is not None and cell.summary is not None
