"""Means, t-intervals and paired t-tests over a few seeds, with Holm's adjustment."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

CONFIDENCE = 0.95
LEVEL = 0.05
NOT_SIGNIFICANT = "not significant"
ONE_PAIR = "no test with one seed"
CONSTANT = "no test: the same difference in every seed"


@dataclass(frozen=True)
class Summary:
    """Over seeds, never over images."""

    n: int
    mean: float
    sd: float | None = None  # ddof 1
    low: float | None = None  # the 95 % t-interval
    high: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Row minus its reference over the seeds that both have."""

    n: int
    difference: float
    low: float | None = None
    high: float | None = None
    p: float | None = None  # two-sided paired t-test
    p_holm: float | None = None  # None for the primary comparison, whose p is not adjusted
    primary: bool = False  # pre-specified in the grid
    verdict: str = NOT_SIGNIFICANT  # higher, lower, not significant, or why no test was made
    differences: tuple[tuple[int, float], ...] = ()  # by seed


def summarize(values: Sequence[float]) -> Summary | None:
    """Mean, spread and interval; no interval with one seed or identical ones. None without values."""
    if not values:
        return None
    ordered = sorted(values)  # so that the order of the seeds cannot move the last bit
    n = len(ordered)
    mean = math.fsum(ordered) / n
    if n == 1:
        return Summary(1, mean)
    if _constant(ordered, ordered):
        return Summary(n, mean, 0.0)
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in ordered) / (n - 1))
    low, high, _ = _t_test(ordered)
    return Summary(n, mean, sd, low, high)


def compare(values: Mapping[int, float], base: Mapping[int, float]) -> Comparison | None:
    """The paired test of a row against its reference, before any verdict. None if they share no seed."""
    seeds = sorted(set(values) & set(base))
    if not seeds:
        return None
    by_seed = tuple((seed, values[seed] - base[seed]) for seed in seeds)
    ordered = sorted(difference for _, difference in by_seed)
    difference = math.fsum(ordered) / len(ordered)
    if len(seeds) == 1:
        return Comparison(1, difference, verdict=ONE_PAIR, differences=by_seed)
    # equal differences in every seed (a metric over few images) would give p = 0 without evidence
    if _constant(ordered, [side[seed] for side in (values, base) for seed in seeds]):
        return Comparison(len(seeds), difference, verdict=CONSTANT, differences=by_seed)
    low, high, p = _t_test(ordered)
    return Comparison(len(seeds), difference, low, high, p, differences=by_seed)


def judge(comparisons: Mapping[str, Comparison], primary: str | None, family: int) -> dict[str, Comparison]:
    """The verdicts of one column, by row. `family`: the number of comparisons planned in it, without the primary one."""
    adjusted = holm({row: c.p for row, c in comparisons.items() if c.p is not None and row != primary}, family)
    judged = {}
    for row, comparison in comparisons.items():
        p_holm = adjusted.get(row)
        decisive = comparison.p if row == primary else p_holm
        verdict = comparison.verdict
        if decisive is not None and decisive < LEVEL:
            verdict = "higher" if comparison.difference > 0 else "lower"
        judged[row] = replace(comparison, p_holm=p_holm, primary=row == primary, verdict=verdict)
    return judged


def holm(p_values: Mapping[str, float], family: int | None = None) -> dict[str, float]:
    """Holm's step-down adjustment. `family`: the number of planned comparisons, if some could not be tested yet."""
    count = max(family or 0, len(p_values))
    adjusted: dict[str, float] = {}
    running = 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: (item[1], item[0]))):
        running = max(running, min(1.0, (count - rank) * p))
        adjusted[name] = running
    return adjusted


def _constant(values: Sequence[float], scale: Sequence[float]) -> bool:
    """Equal but for rounding: 61.3 - 60.3 and 62.3 - 61.3 differ in the last bit."""
    return max(values) - min(values) <= 1e-9 * max(abs(value) for value in scale)


def _t_test(values: Sequence[float]) -> tuple[float, float, float]:
    """Interval and two-sided p of a mean. scipy.stats' own function takes ten times as long for a few numbers."""
    from scipy.special import stdtr, stdtrit

    n, mean = len(values), math.fsum(values) / len(values)
    error = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n)
    half = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * error
    return mean - half, mean + half, 2 * float(stdtr(n - 1, -abs(mean) / error))
