"""Which rows of a group are significantly better than which: every pair is tested, Holm-adjusted within the group."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from mimbench.report.statistics import LEVEL

Sample = Mapping[Any, float]  # by seed or replicate
ROUNDING = 1e-9  # of the largest value: what varies less is constant, and is not tested


def ranks(samples: Sequence[Sample]) -> list[int]:
    """1 + the number of rows that are significantly better. A row with one value is neither better nor worse than any."""
    import numpy as np

    tested = [index for index, sample in enumerate(samples) if len(sample) > 1]
    worse = np.zeros(len(samples), dtype=int)
    first, second, difference, p = pairwise([samples[index] for index in tested])
    significant = _holm_rejects(p, family=len(samples) * (len(samples) - 1) // 2)
    losers = np.where(difference > 0, second, first)[significant]
    np.add.at(worse, np.asarray(tested, dtype=int)[losers], 1)
    return [int(count) + 1 for count in worse]


def pairwise(samples: Sequence[Sample]) -> tuple[Any, Any, Any, Any]:
    """Of every pair: the two indices, the difference of the means, and the two-sided p; NaN where nothing can be tested.

    The t-test is paired where both have the same seeds, else Welch's. Each sample has at least two values.
    """
    import numpy as np

    size = len(samples)
    count = np.array([len(sample) for sample in samples], dtype=float)
    mean = np.array([np.mean(list(sample.values())) for sample in samples])
    squared_error = np.array([_squared_error(list(sample.values())) for sample in samples])
    largest = np.array([max(abs(value) for value in sample.values()) for sample in samples])
    code, matrices = _by_seeds(samples)
    pairs: list[tuple[Any, Any, Any, Any]] = []
    for index in range(size - 1):
        later = np.arange(index + 1, size)
        p = _welch(mean[index] - mean[later], squared_error[index], squared_error[later], count[index], count[later])
        same = later[code[later] == code[index]]
        if len(same):
            matrix, place = matrices[code[index]]
            p[same - index - 1] = _paired(matrix[place[index]] - matrix[[place[other] for other in same]],
                                          np.maximum(largest[index], largest[same]))  # fmt: skip
        pairs.append((np.full(len(later), index), later, mean[index] - mean[later], p))
    if not pairs:
        nothing = np.array([], dtype=int)
        return nothing, nothing, np.array([]), np.array([])
    first, second, difference, p = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    return first, second, difference, p


def _by_seeds(samples: Sequence[Sample]) -> tuple[Any, list[tuple[Any, dict[int, int]]]]:
    """A code for each set of seeds, and for each code a matrix of the samples that have it, with their lines."""
    import numpy as np

    codes: dict[frozenset[Hashable], int] = {}
    code = np.array([codes.setdefault(frozenset(sample), len(codes)) for sample in samples], dtype=int)
    matrices = []
    for seeds, own in codes.items():
        members, order = np.flatnonzero(code == own), sorted(seeds, key=repr)
        matrix = np.array([[samples[index][seed] for seed in order] for index in map(int, members)])
        matrices.append((matrix, {int(index): line for line, index in enumerate(members)}))
    return code, matrices


def _squared_error(values: list[float]) -> float:
    """Of the mean; 0 where the values are equal but for rounding."""
    import numpy as np

    if max(values) - min(values) <= ROUNDING * max(map(abs, values)):
        return 0.0
    return float(np.var(values, ddof=1)) / len(values)


def _welch(difference: Any, error: float, errors: Any, n: float, counts: Any) -> Any:
    import numpy as np

    both = error + errors
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = both**2 / (error**2 / (n - 1) + errors**2 / (counts - 1))
        return _two_sided(difference / np.sqrt(both), freedom)


def _paired(differences: Any, largest: Any) -> Any:
    import numpy as np

    n = differences.shape[1]
    constant = np.ptp(differences, axis=1) <= ROUNDING * largest
    with np.errstate(divide="ignore", invalid="ignore"):
        t = differences.mean(axis=1) / (differences.std(axis=1, ddof=1) / np.sqrt(n))
        return np.where(constant, np.nan, _two_sided(t, n - 1))


def _two_sided(t: Any, freedom: Any) -> Any:
    from scipy.special import stdtr

    return 2 * stdtr(freedom, -abs(t))


def _holm_rejects(p: Any, family: int) -> Any:
    """Holm's step-down, of `family` comparisons: those that could not be tested count."""
    import numpy as np

    order = np.argsort(p, kind="stable")  # NaN last
    small = (family - np.arange(len(p))) * p[order] < LEVEL
    rejected = np.zeros(len(p), dtype=bool)
    rejected[order[: len(p) if small.all() else int(np.argmin(small))]] = True
    return rejected
