"""`search:` of a grid: which learning rates `mimbench search` tries, and on what."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

from mimbench.config.ranges import Range, at_least, between
from mimbench.errors import UserError, check_known

SEVERAL = Range("2 to 20 values, each at least 1.1 times the one below", lambda values: _apart(sorted(values)))
EACH_ONCE = Range("1 to 20, each once", lambda values: 0 < len(set(values)) == len(values) <= 20)
Rate = Annotated[float, between(1e-9, 1e3)]
Unreported = Annotated[int, at_least(100)]  # seeds below are for results


@dataclass(frozen=True)
class Search:
    """What is tried for every trained row that states no learning rate of its own."""

    lr: Annotated[tuple[Rate, ...], SEVERAL]
    protocols: Annotated[tuple[str, ...], EACH_ONCE]
    seeds: Annotated[tuple[Unreported, ...], EACH_ONCE] = (100,)

    def check_within(self, protocols: Collection[str], seeds: Collection[int], file: str, place: str) -> None:
        """Against the grid's own protocols, and its seeds, which are from `place`."""
        for name in self.protocols:
            check_known(f"{file}: search.protocols", "protocol of the grid", name, protocols)
        if shared := sorted({*self.seeds} & {*seeds}):
            raise UserError(
                f"{place}: {shared[0]} is one of search.seeds ({file}): what is chosen on a seed is not reported on it."
            )


def _apart(values: list[float]) -> bool:
    return 2 <= len(values) <= 20 and all(high >= 1.1 * low for low, high in pairwise(values))
