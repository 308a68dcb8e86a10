"""The column of FLOPs: of each row's whole training."""

from __future__ import annotations

from mimbench.report.collect import Grid, Row
from mimbench.report.format import DASH, flops

HEADING = "FLOPs"


def flops_column(grid: Grid) -> list[str] | None:
    """The text of each row; None where nothing was counted."""
    return [_text(row, grid) for row in grid.rows] if _were_counted(grid) else None


def flops_note(grid: Grid) -> list[str]:
    """What the column holds."""
    if not _were_counted(grid):
        return []
    unit = _unit(grid)
    external = any(row.flops and row.flops["external"] for row in grid.rows)
    return [
        "FLOPs: matrix products, convolutions and attention of a row's whole training for one seed, forward and backward, with "
        "all that is trained for it (tokenizer, teacher, earlier stages; in full for each row that shares them)."
        + (f" In brackets: relative to {unit.label}." if unit else "")
        + (" + external: it also builds on weights from elsewhere, whose FLOPs are not known." if external else "")
    ]


def _were_counted(grid: Grid) -> bool:
    return any(row.flops is not None for row in grid.rows)


def _unit(grid: Grid) -> Row | None:
    """The row that others are relative to: the reference, or else the first one that is trained."""
    trained = {row.name: row for row in grid.rows if row.flops and row.flops["total"]}
    return trained.get(grid.base) or next(iter(trained.values()), None)


def _text(row: Row, grid: Grid) -> str:
    """`12.3 T (0.84) + external`."""
    if row.flops is None:
        return DASH
    unit, own = _unit(grid), row.flops["total"]
    relative = f" ({own / unit.flops['total']:.2f})" if own and unit and unit.flops else ""
    return flops(own) + relative + (" + external" if row.flops["external"] else "")
