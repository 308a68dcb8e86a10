"""A plan's runs -> the arrays that carry them out, in the order of submission."""

from __future__ import annotations

from collections.abc import Iterator

from mimbench.kinds import in_order
from mimbench.plan.graph import Planned


def arrays(runs: dict[str, Planned], most: int) -> Iterator[list[Planned]]:
    """The runs of one kind, at most so many per array, after the arrays of their parents.

    If runs descend from runs of their own kind (a pre-training that continues another), each generation is an array.
    """
    left = dict(runs)
    while left:
        ready = [run for run in left.values() if left.keys().isdisjoint(run.parents)]
        kind = in_order({run.kind for run in ready})[0]
        members = [run for run in ready if run.kind == kind]
        for start in range(0, len(members), most):
            yield members[start : start + most]
        for run in members:
            del left[run.name]
