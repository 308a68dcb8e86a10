"""Figures as people say them."""


def duration(seconds: float) -> str:
    """`45 s`, `1.7 min`, `12 min`, `3.4 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.{0 if minutes >= 10 else 1}f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
