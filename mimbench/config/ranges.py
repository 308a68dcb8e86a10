"""What a value may be, beside its type: `lr: Annotated[float, above(0)]`. Checked by `coerce`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal


@dataclass(frozen=True)
class Range:
    words: str
    allows: Callable[[Any], bool]


def at_least(low: float) -> Range:
    return Range(f"at least {low}", lambda value: value >= low)


def above(low: float) -> Range:
    return Range(f"greater than {low}", lambda value: value > low)


def between(low: float, high: float) -> Range:
    return Range(f"between {low} and {high}", lambda value: low <= value <= high)


def above_up_to(low: float, high: float) -> Range:
    return Range(f"greater than {low} and at most {high}", lambda value: low < value <= high)


def from_to_below(low: float, high: float) -> Range:
    return Range(f"at least {low} and less than {high}", lambda value: low <= value < high)


Count = Annotated[int, at_least(1)]
Whole = Annotated[int, at_least(0)]
NotNegative = Annotated[float, at_least(0)]
Positive = Annotated[float, above(0)]
Share = Annotated[float, between(0, 1)]
PositiveShare = Annotated[float, above_up_to(0, 1)]
Fraction = Annotated[float, from_to_below(0, 1)]  # 1 itself would leave nothing
ONE_LINE = Range("one line", lambda text: len(f"{text}.".splitlines()) == 1)  # a table has it in a cell
FILLED = Range("a list of at least one value", bool)
Exempt = tuple[
    Literal["vectors", "pos_embed", "cls_token", "mask_token", "reg_token", "relative_position_bias_table"], ...
]  # from decay
