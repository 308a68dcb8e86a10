"""What the rows cost, apart from the table: these numbers differ each time."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass

from mimbench.report.collect import Grid, Record

ALL_ROWS = "all rows, shared runs once"


@dataclass(frozen=True)
class Cost:
    """Of the finished runs of one kind that a row needs, or of the whole grid."""

    row: str
    kind: str
    runs: int
    total_seconds: float
    total_images: int
    peak_memory_bytes: int | None
    energy_joules: float | None  # None unless every run could be measured

    @property
    def mean_seconds(self) -> float:
        return self.total_seconds / self.runs

    @property
    def mean_images(self) -> float:
        return self.total_images / self.runs


def costs(grid: Grid) -> list[Cost]:
    """By row and kind, then for the whole grid, where a run that several rows share counts once."""
    found = [_cost(row.name, kind, grid.runs(row, kind).values()) for row in grid.rows for kind in grid.kinds()]
    found += [_cost(ALL_ROWS, kind, (r for r in grid.records.values() if r.kind == kind)) for kind in grid.kinds()]
    found.append(_cost(ALL_ROWS, "all", grid.records.values()))
    return [cost for cost in found if cost is not None]


def _cost(row: str, kind: str, records: Iterable[Record]) -> Cost | None:
    unique = {r.name: r.cost for r in records if r.state == "done" and r.cost is not None}
    found = list(unique.values())
    if not found:
        return None
    memory = [int(cost["peak_memory_bytes"]) for cost in found if cost.get("peak_memory_bytes") is not None]
    energy = [float(cost["energy_joules"]) for cost in found if cost.get("energy_joules") is not None]
    return Cost(
        row,
        kind,
        len(found),
        sum(float(cost.get("seconds") or 0) for cost in found),
        sum(int(cost.get("images") or 0) for cost in found),
        max(memory, default=None),
        sum(energy) if len(energy) == len(found) else None,
    )


def costs_csv(grid: Grid) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["row", "kind", "runs", "mean_seconds", "mean_images", "total_seconds", "total_images",
                     "peak_memory_bytes", "energy_joules"])  # fmt: skip
    for cost in costs(grid):
        writer.writerow([cost.row, cost.kind, cost.runs, f"{cost.mean_seconds:.1f}", f"{cost.mean_images:.0f}",
                         f"{cost.total_seconds:.1f}", cost.total_images, _or_empty(cost.peak_memory_bytes),
                         _or_empty(cost.energy_joules)])  # fmt: skip
    return stream.getvalue()


def _or_empty(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"
