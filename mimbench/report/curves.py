"""The figures that show how runs went: losses over steps, probe accuracy over layers, learning-rate sweeps."""

from __future__ import annotations

import csv
import math
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimbench.report.analysis import Analysis
from mimbench.report.collect import Grid
from mimbench.report.colours import ACCENT
from mimbench.store.records import is_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Read = Callable[[Any], dict[float, float]]  # raw values of a result -> x -> score
PANEL_LETTERS = 28  # of a title that fit above one of three panels side by side
POINTS = 200  # drawn of a curve: each the mean of a stretch of steps


def read_curve(path: Path) -> list[tuple[float, float]]:
    """(step, loss) of a curve.csv. A line cut short by a crash, or a missing file, is passed over."""
    points = []
    try:
        with path.open(newline="", encoding="utf-8", errors="replace") as stream:
            for line in csv.DictReader(stream):
                try:
                    point = float(line["step"]), float(line["loss"])
                except (KeyError, TypeError, ValueError):
                    continue
                if all(map(is_number, point)):
                    points.append(point)
    except (OSError, csv.Error):
        return points
    return points


def thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    stretch = math.ceil(len(points) / POINTS) or 1
    parts = [points[start : start + stretch] for start in range(0, len(points), stretch)]
    return [(sum(s for s, _ in part) / len(part), sum(v for _, v in part) / len(part)) for part in parts]


def pretraining(analysis: Analysis) -> Figure | None:
    """A panel a row, a line a seed."""
    import seaborn as sns

    grid = analysis.grid
    curves = {
        row.label: {seed: points for seed, record in grid.runs(row, "pretrain").items()
                    if (points := thinned(read_curve(record.folder / "curve.csv")))}
        for row in grid.rows
    }  # fmt: skip
    curves = {label: seeds for label, seeds in curves.items() if seeds}
    if not curves:
        return None
    figure, axes_list = _small_multiples(len(curves), across=3)
    for axes, (label, seeds) in zip(axes_list, curves.items(), strict=True):
        for points in seeds.values():
            steps, losses = zip(*points, strict=True)
            sns.lineplot(x=steps, y=losses, ax=axes, color=ACCENT, alpha=0.6, linewidth=1.2, errorbar=None)
        axes.set_title(textwrap.fill(label, PANEL_LETTERS), fontsize=10)
        axes.set_xlabel("step")
        axes.set_ylabel("loss")
    return figure


def probe_layers(analysis: Analysis) -> Figure | None:
    """Held-out accuracy by layer, a line a row."""
    from matplotlib.ticker import MaxNLocator

    series = _series(analysis.grid, "linear_probe", lambda values: {
        float(entry["layer"]): float(entry["val"]) for entry in values["by_layer"]
    })  # fmt: skip
    if not series:
        return None
    figure, (axes,) = _wide(1)
    _lines(axes, analysis.grid, series, legend=True)
    axes.set_title(_heading(analysis.grid, "linear_probe"))
    axes.set_xlabel("layer")
    axes.set_ylabel("held-out score")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def learning_rates(analysis: Analysis) -> Figure | None:
    """Held-out score by learning rate, a panel a protocol that sweeps one."""
    swept = {
        column.protocol: series
        for column in analysis.grid.columns
        if (series := _series(analysis.grid, column.protocol, lambda values: {
            float(rate): float(entry["val"]) for rate, entry in values["by_lr"].items() if float(rate) > 0
        }))
    }  # fmt: skip
    if not swept:
        return None
    figure, axes_list = _wide(len(swept))
    for position, (axes, (protocol, series)) in enumerate(zip(axes_list, swept.items(), strict=True)):
        _lines(axes, analysis.grid, series, legend=position == len(swept) - 1)
        axes.set_title(_heading(analysis.grid, protocol))
        axes.set_xlabel("learning rate")
        axes.set_xscale("log")
        rates = sorted({rate for by_rate in series.values() for rate in by_rate})
        axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
        axes.minorticks_off()
    axes_list[0].set_ylabel("held-out score")
    return figure


def _series(grid: Grid, protocol: str, read: Read) -> dict[str, dict[float, float]]:
    """Row label -> x -> mean over seeds. Results that lack these raw values, or hold other ones, are passed over."""
    series = {}
    for row in grid.rows:
        found: dict[float, list[float]] = {}
        for record in grid.runs(row, protocol).values():
            try:
                points = read((record.result or {})["values"])
            except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
                continue
            for x, y in points.items():
                if is_number(x) and is_number(y):
                    found.setdefault(x, []).append(y)
        if found:
            series[row.label] = {x: sum(ys) / len(ys) for x, ys in sorted(found.items())}
    return series


def _lines(axes: Axes, grid: Grid, series: dict[str, dict[float, float]], *, legend: bool) -> None:
    import seaborn as sns

    labels = [row.label for row in grid.rows]
    palette = sns.color_palette("colorblind", len(labels))
    markers = "osD^vPX*hd"
    for label, points in series.items():
        index = labels.index(label)
        sns.lineplot(x=list(points), y=list(points.values()), ax=axes, color=palette[index], label=label, errorbar=None,
                     marker=markers[index % len(markers)], markersize=6, markeredgewidth=0, legend=False)  # fmt: skip
    if legend:
        axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=9)


def _heading(grid: Grid, protocol: str) -> str:
    return next((c.heading for c in grid.columns if c.protocol == protocol), protocol)


def _wide(count: int) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.2, 3.4))
    return figure, list(figure.subplots(1, count, squeeze=False).flat)


def _small_multiples(count: int, across: int) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    across = min(across, count)
    down = math.ceil(count / across)
    figure = Figure(figsize=(9.2, 2.3 * down + 0.3))
    axes = list(figure.subplots(down, across, squeeze=False).flat)
    for spare in axes[count:]:
        spare.remove()
    return figure, axes[:count]
