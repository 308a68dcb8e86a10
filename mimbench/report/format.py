"""Numbers as text. Imports nothing heavy: `status` and `--help` stay quick."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mimbench.inert import for_csv

if TYPE_CHECKING:
    import pandas as pd

DASH = "–"  # where there is no number


def duration(seconds: float) -> str:
    """`45 s`, `1.7 min`, `12 min`, `3.4 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.{0 if minutes >= 10 else 1}f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def count(number: int, noun: str) -> str:
    """`1 seed`, `3 seeds`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def number(value: float, unit: str, sign: bool = False) -> str:
    """Two decimals for percentages, four digits for anything else; a true minus sign."""
    plus = "+" if sign else ""
    text = f"{value:{plus}.2f}" if unit == "%" else f"{value:{plus}.4g}"
    return "0.00" if text in ("-0.00", "+0.00") else text.replace("-", "−")


def interval(low: float | None, high: float | None, unit: str, sign: bool = False) -> str:
    if low is None or high is None:
        return ""
    return f"{number(low, unit, sign)} to {number(high, unit, sign)}"


def p_text(p: float | None) -> str:
    if p is None:
        return ""
    return "<0.0001" if p < 0.0001 else f"{p:.2g}" if p < 0.1 else f"{p:.2f}"


def csv(frame: pd.DataFrame, **more: Any) -> str:
    """A table as CSV, in which no text is a formula."""
    texts = frame.select_dtypes(include=["object", "str"]).columns
    made = frame.assign(**{name: frame[name].map(for_csv, na_action="ignore") for name in texts})
    return str(made.to_csv(index=False, lineterminator="\n", **more))


def flops(value: float) -> str:
    """`12.3 T`, `1.20 P`, `0`: three digits."""
    if value == 0:
        return "0"
    for size, letter in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g}"
