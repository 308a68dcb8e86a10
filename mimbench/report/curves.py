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

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Read = Callable[[dict[str, Any]], list[tuple[float, float]]]  # a result's raw values -> x and score of each point
PANEL_LETTERS = 28  # of a title that fit above one of three panels side by side
LEGEND_LINE = 0.21  # inches
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


def thinned(curve: pd.DataFrame) -> pd.DataFrame:
    return curve.groupby(curve.index // (math.ceil(len(curve) / POINTS) or 1)).mean()


def pretraining(analysis: Analysis) -> Figure | None:
    """One panel per row, one line per seed."""
    import pandas as pd
    import seaborn as sns

    grid = analysis.grid
    curves = [
        thinned(curve).assign(row=row.label, seed=seed)
        for row in grid.rows
        for seed, record in grid.runs(row, "pretrain").items()
        if len(curve := read_curve(record.folder / "curve.csv"))
    ]
    if not curves:
        return None
    panels = pd.concat(curves).groupby("row", sort=False)
    figure, axes_list = small_multiples(len(panels), across=3, width=9.2, height=2.45)
    for axes, (label, of_row) in zip(axes_list, panels, strict=True):
        sns.lineplot(of_row, x="step", y="loss", units="seed", estimator=None, ax=axes, color=ACCENT, alpha=0.6,
                     linewidth=1.2)  # fmt: skip
        axes.set_title(textwrap.fill(str(label), PANEL_LETTERS), fontsize=10)
    return figure


def probe_layers(analysis: Analysis) -> Figure | None:
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
    figure, (axes,) = small_multiples(1, across=1, width=9.2, height=height)
    _lines(axes, analysis.grid, "linear_probe", scores, legend=True)
    axes.set(xlabel="layer", ylabel="held-out score")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def epochs(analysis: Analysis) -> Figure | None:
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
    figure, axes_list = small_multiples(len(watched), across=1, width=9.2, height=height)
    for axes, (protocol, scores) in zip(axes_list, watched.items(), strict=True):
        _lines(axes, analysis.grid, protocol, scores, legend=True)
        axes.set(xlabel="epoch", ylabel="held-out score")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def learning_rates(analysis: Analysis) -> Figure | None:
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
    figure, axes_list = small_multiples(len(swept), across=2, width=9.2, height=height)
    for index, (axes, (protocol, scores)) in enumerate(zip(axes_list, swept.items(), strict=True)):
        _lines(axes, analysis.grid, protocol, scores, legend=axes is axes_list[-1])
        axes.set(xlabel="learning rate", ylabel="" if index % 2 else "held-out score", xscale="log")
        rates = sorted(scores["x"].unique())
        axes.set_xticks(rates, [f"{rate:g}" for rate in rates], rotation=45 if len(rates) > 4 else 0)
        axes.minorticks_off()
    return figure


def _scores(grid: Grid, protocol: str, read: Read) -> pd.DataFrame:
    """One line per row, seed and point: label, x, score."""
    import pandas as pd

    points = [
        (row.label, x, score)
        for row in grid.rows
        for record in grid.runs(row, protocol).values()
        if record.result is not None
        for x, score in read(record.result["values"])
    ]
    return pd.DataFrame(points, columns=["label", "x", "score"])


def _lines(axes: Axes, grid: Grid, protocol: str, scores: pd.DataFrame, *, legend: bool) -> None:
    """Means over seeds. A row has the same color and marker in every panel."""
    import seaborn as sns

    labels = [row.label for row in grid.rows]
    colors = dict(zip(labels, sns.color_palette("colorblind", len(labels)), strict=True))
    markers = dict(zip(labels, itertools.cycle("osD^vPX*hd")))
    sns.lineplot(scores, x="x", y="score", hue="label", style="label", palette=colors, markers=markers, dashes=False,
                 errorbar=None, markersize=6, markeredgewidth=0, ax=axes, legend=legend)  # fmt: skip
    axes.set_title(next(column.heading for column in grid.columns if column.protocol == protocol))
    if legend:
        sns.move_legend(axes, "center left", bbox_to_anchor=(1.02, 0.5), title=None, fontsize=9)


def small_multiples(
    count: int, across: int, width: float, height: float, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """`width`: of the figure; `height`: of each panel, in inches."""
    from matplotlib.figure import Figure

    across = min(across, count)
    down = math.ceil(count / across)
    figure = Figure(figsize=(width, height * down))
    axes = list(figure.subplots(down, across, squeeze=False, sharey=sharey).flat)
    for spare in axes[count:]:
        spare.remove()
    return figure, axes[:count]
