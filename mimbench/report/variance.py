"""Where the spread over seeds comes from: variance components of a grid whose seeds share tokenizers or pre-trainings.

The hierarchical random-effects ANOVA by the method of moments (Searle, Casella, McCulloch: Variance Components, chapter 5),
for groups of any size: the sum of squares of each level is set equal to its expectation. An estimate may be negative.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mimbench.report.analysis import Analysis, Cell
from mimbench.report.format import csv, number

NAMES = {"tokenizer": "tokenizer", "pretrain": "pre-training", "evaluation": "evaluation"}  # outermost first
HEADINGS = ["Row", "Evaluation", "Source", "Groups", "Degrees of freedom", "SD", "SD of the mean"]
ENOUGH = 3  # degrees of freedom of every source: with fewer, no advice
ROUNDING = 1e-9  # of the whole sum of squares: a level below it is constant


@dataclass(frozen=True)
class Component:
    """What one source adds to the variance of a single number."""

    source: str  # `pre-training`, or `tokenizer and pre-training` where each tokenizer has one
    groups: int
    freedom: int
    variance: float | None  # as estimated, negative ones too; None with a single group

    @property
    def of_mean(self) -> float:
        """What it adds to the variance of the mean over all runs; negative estimates count as 0."""
        return max(self.variance or 0.0, 0.0) / self.groups


def decompose(values: Sequence[float], levels: Mapping[str, Sequence[Hashable]]) -> list[Component]:
    """`levels`: the group of each value, the outermost level first; each group lies within one of the level above.

    T, the sum over the groups g of a level of n_g times their squared mean, has the expectation of its counterpart for one
    group of all plus, for the variance of each level with groups h, the difference of their sums of n_gh^2 / n_g.
    """
    center = math.fsum(values) / len(values)
    grouping: list[Sequence[Hashable]] = [["all"] * len(values), *levels.values()]
    totals = [_squares([value - center for value in values], groups) for groups in grouping]
    weights = [[_weight(groups, inner) for inner in grouping] for groups in grouping]
    counts = [len(set(groups)) for groups in grouping]
    variances: dict[int, float] = {}
    for level in reversed(range(1, len(grouping))):  # the innermost first: its variance is part of all others' squares
        expected = [own - above for own, above in zip(weights[level], weights[level - 1], strict=True)]
        squares = totals[level] - totals[level - 1]
        squares = 0.0 if abs(squares) <= ROUNDING * totals[-1] else squares
        if counts[level] > counts[level - 1]:
            rest = math.fsum(expected[inner] * variance for inner, variance in variances.items())
            variances[level] = (squares - rest) / expected[level]
    return [
        Component(name, counts[level], counts[level] - counts[level - 1], variances.get(level))
        for level, name in enumerate(levels, 1)
    ]


def _weight(outer: Sequence[Hashable], inner: Sequence[Hashable]) -> float:
    """Sum over the groups g of `outer` and h of `inner` of n_gh^2 / n_g."""
    sizes, shared = Counter(outer), Counter(zip(outer, inner, strict=True))
    return math.fsum(n**2 / sizes[group] for (group, _), n in shared.items())


def _squares(values: Sequence[float], groups: Sequence[Hashable]) -> float:
    """Sum over the groups of size times squared mean."""
    members: dict[Hashable, list[float]] = defaultdict(list)
    for value, group in zip(values, groups, strict=True):
        members[group].append(value)
    return math.fsum(math.fsum(own) ** 2 / len(own) for own in members.values())


@dataclass(frozen=True)
class Spread:
    """The components of one cell."""

    cell: Cell
    components: list[Component]


def spreads(analysis: Analysis) -> list[Spread]:
    """Of the cells in which evaluations share a pre-training, or pre-trainings a tokenizer."""
    nested = {place: _levels(cell) for place, cell in analysis.cells.items()}
    return [
        Spread(analysis.cells[place], decompose(list(analysis.cells[place].values.values()), levels))
        for place, levels in nested.items() if len(levels) > 1
    ]  # fmt: skip


def _levels(cell: Cell) -> dict[str, Sequence[Hashable]]:
    """The run of each stage by finished seed. A stage that no two runs of the next one share is one level with it."""
    levels: dict[str, Sequence[Hashable]] = {}
    for stage, name in NAMES.items():
        runs = [cell.row.runs[seed].get(stage) for seed in cell.values]
        groups: Sequence[Hashable] = list(cell.values) if stage == "evaluation" else runs
        if None in groups:  # a row without such a stage
            continue
        last, above = next(reversed(levels.items()), ("", ()))
        if last and len(set(above)) == len(set(groups)):
            del levels[last]
            name = f"{last} and {name}"
        levels[name] = groups
    return levels


def variance_lines(found: list[Spread]) -> list[dict[str, Any]]:
    """One line per component, for `variance.csv`."""
    lines = []
    for spread in found:
        row, column = spread.cell.row, spread.cell.column
        for c in spread.components:
            sd, of_mean = (
                (None, None) if c.variance is None else (math.sqrt(max(c.variance, 0.0)), math.sqrt(c.of_mean))
            )
            lines.append({
                "row": row.name, "label": row.label, "protocol": column.protocol, "metric": column.metric,
                "unit": column.unit, "source": c.source, "groups": c.groups, "df": c.freedom, "variance": c.variance,
                "sd": sd, "sd_of_mean": of_mean,
            })  # fmt: skip
    return lines


def variance_csv(found: list[Spread]) -> str:
    import pandas as pd

    return csv(pd.DataFrame(variance_lines(found)), float_format="%.7g")


def spread_rows(found: list[Spread]) -> list[list[str]]:
    """The same as text, under HEADINGS."""
    rows = []
    for spread in found:
        for c in spread.components:
            star = " *" if c.variance is not None and c.variance < 0 else ""
            sd = "" if c.variance is None else number(math.sqrt(max(c.variance, 0.0)), spread.cell.column.unit) + star
            of_mean = "" if c.variance is None else number(math.sqrt(c.of_mean), spread.cell.column.unit)
            rows.append([spread.cell.row.label, spread.cell.column.heading, c.source, str(c.groups), str(c.freedom), sd,
                         of_mean])  # fmt: skip
    return rows


def spread_note(found: list[Spread]) -> str:
    """How to read the rows, and one sentence of advice: of which stage more runs narrow the mean most."""
    cells: dict[str, list[str]] = defaultdict(list)
    for spread in found:
        largest = max(spread.components, key=lambda c: c.of_mean)
        if largest.of_mean and all(c.freedom >= ENOUGH for c in spread.components):
            stages = " and ".join(f"{name}s" for name in largest.source.split(" and "))
            cells[stages].append(f"{spread.cell.row.label}, {spread.cell.column.label}")
    advice = "; ".join(f"more {stages} for {' and '.join(of_stage)}" for stages, of_stage in cells.items())
    return (
        "SD: what each source adds to a number, by a hierarchical random-effects ANOVA (method of moments); SD of the mean: "
        "what is left of it in the mean over all runs. A star marks a negative estimate, shown as 0. With few degrees of "
        "freedom an SD is rough."
        + (f" More runs pay most where the SD of the mean is largest: {advice}." if advice else "")
    )
