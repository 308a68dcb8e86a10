"""Limits of our own. A benchmark goes on when it misses one, and fails at its end."""

MISSED: list[str] = []


def within(value: float, most: float, what: str) -> None:
    if value > most:
        MISSED.append(f"{what}: {value:.4g}, limit {most:g}")


def missed() -> str | int:
    """For sys.exit."""
    return "\n".join(["Limits missed:", *MISSED]) if MISSED else 0
