"""`axes:` of a grid: its points, and the short names of its axes."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Annotated, Any

from mimbench.config.coerce import Checked
from mimbench.config.ranges import FILLED
from mimbench.errors import UserError, check_known

Point = dict[str, Any]  # dotted key -> value
Lists = dict[str, Annotated[list[Any], FILLED]]


MAX_ROWS = 2000  # of one grid


def check_rows(count: int, place: str) -> None:
    if count > MAX_ROWS:
        raise UserError(
            f"{place}: {count:,} rows; a grid has at most {MAX_ROWS:,}. Write several grids: they share runs."
        )


@dataclass(frozen=True)
class Axes(Checked):
    """Dotted keys and their values: every combination (product), lists in step (zip), combinations excluded."""

    product: Lists = field(default_factory=dict)
    zip: Lists = field(default_factory=dict)
    exclude: tuple[Point, ...] = ()

    def check(self, place: str) -> None:
        if len({len(values) for values in self.zip.values()}) > 1:
            raise UserError(f"{place}.zip: all lists must have the same length.")
        for key in itertools.chain(*self.exclude):
            check_known(f"{place}.exclude", "axis", key, [*self.product, *self.zip])
        combinations = math.prod(map(len, self.product.values())) * len(next(iter(self.zip.values()), [None]))
        check_rows(combinations, place)
        if not self.points():
            raise UserError(f"{place}.exclude: leaves no point.")

    def points(self) -> list[Point]:
        """Without axes: one point that changes nothing."""
        combinations = itertools.product(*self.product.values())
        products = [dict(zip(self.product, values, strict=True)) for values in combinations]
        rows = zip(*self.zip.values(), strict=True)
        zips = [dict(zip(self.zip, values, strict=True)) for values in rows] or [{}]
        return [{**p, **z} for p in products for z in zips if not self._is_excluded({**p, **z})]

    def _is_excluded(self, point: Point) -> bool:
        return any(all(point[k] == v for k, v in excluded.items()) for excluded in self.exclude)


def tag(point: Point) -> str:
    """The point in a row's name, each axis by its shortest unambiguous ending: `lr=0.001,batch=64`."""
    return ",".join(f"{key}={value}" for key, value in by_short_name(point).items())


def by_short_name(point: Point) -> Point:
    short = short_names(list(point))
    return {short[key]: value for key, value in point.items()}


def short_names(axes: list[str]) -> dict[str, str]:
    """Each dotted path -> its shortest ending that no other path has."""

    def ends(axis: str) -> list[str]:
        words = axis.split(".")
        return [".".join(words[start:]) for start in reversed(range(len(words)))]

    taken = {axis: {end for other in axes if other != axis for end in ends(other)} for axis in axes}
    return {axis: next((end for end in ends(axis) if end not in taken[axis]), axis) for axis in axes}
