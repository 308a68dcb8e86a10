"""The figures of how runs went: losses over steps, probe accuracy over layers, learning-rate sweeps."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimbench.report.analysis import Analysis
from mimbench.report.collect import Grid
from mimbench.report.colors import ACCENT
from mimbench.report.sheet import ARTIST, LEGEND_LINE, WIDE, Sheet

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Read = Callable[[dict[str, Any]], list[tuple[float, float]]]  # a result's raw values -> x and score of each point
PANEL_LETTERS = {3: 28, 2: 21}  # of a title that fit above one of so many panels side by side
POINTS = 200  # drawn of a curve, each the mean over several steps


def read_curve(path: Path) -> pd.DataFrame:
    """step and loss of a curve.csv. Empty if there is none; the last line of a running run may be incomplete."""
    import pandas as pd

    return written_curve(path)[["step", "loss"]].apply(pd.to_numeric).reset_index(drop=True)


def written_curve(path: Path) -> pd.DataFrame:
    """All columns as text; of a damaged curve the lines that can be read."""
    import pandas as pd

    try:
        curve = pd.read_csv(path, dtype=str, keep_default_na=False, on_bad_lines="skip", encoding_errors="replace")
        readable = curve[["step", "loss"]].apply(pd.to_numeric, errors="coerce").notna().all(axis=1)
    except (OSError, ValueError, KeyError):  # pandas' own errors are among them
        return pd.DataFrame({"step": [], "loss": []}, dtype=str)
    return curve[readable].reset_index(drop=True)


def damaged_curves(grid: Grid) -> list[str]:
    """Of finished runs, whose last line is whole."""
    damaged = []
    for record in grid.records.values():
        path = record.folder / "curve.csv"
        if record.state == "done" and path.is_file():
            lines = max(1, path.read_bytes().count(b"\n") - 1)
            if (readable := len(written_curve(path))) < lines:
                damaged.append(f"{record.name}: curve.csv is damaged: {readable} of {lines} lines can be read. Its "
                               "result does not rest on it")  # fmt: skip
    return damaged


def thinned(curve: pd.DataFrame, points: int = POINTS) -> pd.DataFrame:
    return curve.groupby(curve.index // (math.ceil(len(curve) / points) or 1)).mean()


def pretraining(analysis: Analysis, sheet: Sheet = WIDE) -> Figure | None:
    """One panel per row, one line per seed."""
    grid = analysis.grid
    curves = {row.name: [thinned(curve) for record in grid.runs(row, "pretrain").values()
                         if len(curve := read_curve(record.folder / "curve.csv"))] for row in grid.rows}  # fmt: skip
    drawn = [row for row in grid.rows if curves[row.name]]
    if not drawn:
        return None
    figure, axes_list = sheet.panels(len(drawn), height=2.45, small=True)
    letters = PANEL_LETTERS[sheet.small_across]
    for axes, row in zip(axes_list, drawn, strict=True):
        for curve in curves[row.name]:
            marker = "o" if len(curve) == 1 else ""  # one point makes no line
            axes.plot(
                curve["step"],
                curve["loss"],
                color=ACCENT,
                alpha=0.6,
                linewidth=1.2,
                marker=marker,
                gid=ARTIST + row.name,
            )
        axes.set_xlabel("step")
        axes.set_ylabel("loss")
        axes.set_title(textwrap.fill(row.label, letters), fontsize=10 if letters > 25 else 9)
    return figure


def probe_layers(analysis: Analysis, sheet: Sheet = WIDE) -> Figure | None:
    """Held-out accuracy by layer, one line per row."""
    from matplotlib.ticker import MaxNLocator

    if all(column.protocol != "linear_probe" for column in analysis.grid.columns):  # run for fine-tuning alone
        return None
    scores = _scores(analysis.grid, "linear_probe", lambda values: [
        (entry["layer"], entry["val"]) for entry in values.get("by_layer", [])
    ])  # fmt: skip
    if scores.empty:
        return None
    height = max(3.4, LEGEND_LINE * len(analysis.grid.rows))
    figure, (axes,) = sheet.panels(1, height if not sheet.legend_below else 3.2)
    sheet.legend(figure, _lines(axes, analysis.grid, "linear_probe", scores, sheet))
    axes.set(xlabel="layer", ylabel="held-out score")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def epochs(analysis: Analysis, sheet: Sheet = WIDE) -> Figure | None:
    """Held-out score by epoch at the chosen learning rate, one panel per protocol that was asked for it."""
    from matplotlib.ticker import MaxNLocator

    found = {
        column.protocol: _scores(analysis.grid, column.protocol, lambda values: [
            (point["epoch"], point["val"]) for point in values.get("by_epoch", [])
        ])
        for column in analysis.grid.columns
    }  # fmt: skip
    watched = {protocol: scores for protocol, scores in found.items() if not scores.empty}
    if not watched:
        return None
    height = max(3.2, LEGEND_LINE * len(analysis.grid.rows))
    figure, axes_list = sheet.panels(len(watched), height if not sheet.legend_below else 3.2)
    handles: dict[str, Artist] = {}
    for axes, (protocol, scores) in zip(axes_list, watched.items(), strict=True):
        handles |= _lines(axes, analysis.grid, protocol, scores, sheet)
        axes.set(xlabel="epoch", ylabel="held-out score")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    sheet.legend(figure, handles)
    return figure


def learning_rates(analysis: Analysis, sheet: Sheet = WIDE) -> Figure | None:
    """Held-out score by learning rate, one panel per protocol that sweeps it."""
    found = {
        column.protocol: _scores(analysis.grid, column.protocol, lambda values: [
            (float(rate), entry["val"]) for rate, entry in values.get("by_lr", {}).items()
            if entry["val"] >= 0  # below: it diverged
        ])
        for column in analysis.grid.columns
    }  # fmt: skip
    swept = {protocol: scores for protocol, scores in found.items() if not scores.empty}
    if not swept:
        return None
    height = max(3.2, LEGEND_LINE * len(analysis.grid.rows))
    figure, axes_list = sheet.panels(len(swept), height if not sheet.legend_below else 3.2)
    handles: dict[str, Artist] = {}
    for index, (axes, (protocol, scores)) in enumerate(zip(axes_list, swept.items(), strict=True)):
        handles |= _lines(axes, analysis.grid, protocol, scores, sheet)
        axes.set(xlabel="learning rate", ylabel="" if index % sheet.across else "held-out score", xscale="log")
        rates = sorted(scores["x"].unique())
        axes.set_xticks(rates, [f"{rate:g}" for rate in rates], rotation=45 if len(rates) > 4 else 0)
        axes.minorticks_off()
    sheet.legend(figure, handles)
    return figure


def _scores(grid: Grid, protocol: str, read: Read) -> pd.DataFrame:
    """One line per row, seed and point: the row's name, x, score."""
    import pandas as pd

    points = [
        (row.name, x, score)
        for row in grid.rows
        for record in grid.runs(row, protocol).values()
        if record.result is not None
        for x, score in read(record.result["values"])
    ]
    return pd.DataFrame(points, columns=["row", "x", "score"])


def _lines(axes: Axes, grid: Grid, protocol: str, scores: pd.DataFrame, sheet: Sheet) -> dict[str, Artist]:
    """Means over seeds, one line per row; returns the lines by row. A row has the same color and marker in every panel."""
    import seaborn as sns

    means = scores.groupby(["row", "x"])["score"].mean()
    colors = sns.color_palette("colorblind", len(grid.rows))
    drawn: dict[str, Artist] = {}
    for row, color, marker in zip(grid.rows, colors, itertools.cycle("osD^vPX*hd"), strict=False):
        if row.name in means.index.get_level_values("row"):
            of_row = means.loc[row.name]
            (drawn[row.name],) = axes.plot(
                of_row.index, of_row, color=color, marker=marker, markersize=6, markeredgewidth=0,
                label=sheet.wrapped(row.label), gid=ARTIST + row.name)  # fmt: skip
    axes.set_title(next(column.heading for column in grid.columns if column.protocol == protocol))
    return drawn
