"""Time, images, memory and energy of the rows. Not in the table, since they differ each time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mimbench.report.collect import Grid
from mimbench.report.format import csv

if TYPE_CHECKING:
    import pandas as pd

ALL_ROWS = "all rows (shared runs counted once)"
MEASURED = {"seconds": "float64", "images": "int64", "peak_memory_bytes": "Int64", "energy_joules": "float64"}
FORMATS = {"mean_seconds": "{:.1f}", "mean_images": "{:.0f}", "total_seconds": "{:.1f}", "energy_joules": "{:.0f}"}


def costs(grid: Grid) -> pd.DataFrame:
    """Of finished runs, by row and kind, then by kind for the whole grid; the last line is the total."""
    import pandas as pd

    groups = [(row.name, kind, list(grid.runs(row, kind).values())) for row in grid.rows for kind in grid.kinds]
    everything = list(grid.records.values())
    groups += [(ALL_ROWS, kind, [record for record in everything if record.kind == kind]) for kind in grid.kinds]
    groups.append((ALL_ROWS, "all", everything))
    runs = [
        {**record.cost, "row": row, "kind": kind, "run": record.name}
        for row, kind, records in groups
        for record in records
        if record.state == "done" and record.cost is not None
    ]
    frame = pd.DataFrame(runs, columns=["row", "kind", "run", *MEASURED]).astype(MEASURED)
    by_kind = frame.drop_duplicates(["row", "kind", "run"]).groupby(["row", "kind"], sort=False)
    return by_kind.agg(
        runs=("run", "size"), mean_seconds=("seconds", "mean"), mean_images=("images", "mean"),
        total_seconds=("seconds", "sum"), total_images=("images", "sum"),
        peak_memory_bytes=("peak_memory_bytes", "max"),
        energy_joules=("energy_joules", lambda joules: joules.sum(skipna=False)),  # none unless measured in every run
    ).reset_index()  # fmt: skip


def costs_csv(grid: Grid) -> str:
    frame = costs(grid)
    for name, form in FORMATS.items():
        frame[name] = frame[name].map(form.format, na_action="ignore")
    return csv(frame)
