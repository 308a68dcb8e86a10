"""`mimbench plan`: the runs of a grid by kind, as text and as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator

from mimbench.launch.local import process_count
from mimbench.plan.compute import trainings
from mimbench.plan.estimate import disk_bytes, estimate
from mimbench.plan.graph import Plan
from mimbench.report.format import count, duration
from mimbench.report.format import flops as flops_text
from mimbench.store.results import Store


def as_text(plan: Plan, store: Store, throughput: float | None = None) -> Iterator[str]:
    """`throughput`: FLOPs a second of the accelerator that will do the work; None: processes on this machine."""
    rows, grid = estimate(plan, store, throughput), plan.grid
    yield (
        f"{grid.name} at scale {grid.scale}: {count(len(grid.chosen), 'row')} x {count(len(grid.seeds), 'seed')}; "
        f"precision auto = {plan.precision}"
    )
    yield f"{'kind':20}{'runs':>6}{'shared':>8}{'done':>6}{'TFLOPs left':>14}{'time left':>12}"
    for row in rows:
        source = "measured" if row.measured else "estimated"
        left = (
            f"{row.flops / 1e12:>14,.1f}{duration(row.seconds):>12} ({source})" if row.runs > row.done else f"{'-':>14}"
        )
        yield f"{row.kind:20}{row.runs:>6}{row.shared:>8}{row.done:>6}{left}"
    seconds, flops = sum(row.seconds for row in rows), sum(row.flops for row in rows)
    shared, done = sum(row.shared for row in rows), sum(row.done for row in rows)
    yield f"{'all':20}{len(plan.runs):>6}{shared:>8}{done:>6}{flops / 1e12:>14,.1f}{duration(seconds):>12}"
    processes = process_count(None)
    time = f"about {duration(seconds / processes)} with {processes} at a time"
    if throughput is not None:
        hours = seconds / 3600
        time = f"about {hours:,.{0 if hours >= 10 else 2}f} GPU-hours at {throughput / 1e12:g} TFLOPs a second"
    yield from _training_by_row(plan)
    yield f"{time}; about {disk_bytes(plan) / 1e6:,.0f} MB of weights"


def _training_by_row(plan: Plan) -> Iterator[str]:
    """One line, as rows of one budget train for about the same."""
    rows: dict[str, list[str]] = {}
    for row, training in trainings(plan).items():
        text = flops_text(training.total) + (" + external" if training.external else "")
        if training.total or training.external:
            rows.setdefault(text, []).append(row)
    if rows:
        shown = (
            f"{text} ({names[0] if len(names) == 1 else count(len(names), 'row')})" for text, names in rows.items()
        )
        yield f"FLOPs of a row and seed, with all that is trained for it: {'; '.join(shown)}"


def as_json(plan: Plan, store: Store, throughput: float | None = None) -> str:
    rows, grid = estimate(plan, store, throughput), plan.grid
    value = {
        "grid": grid.name, "scale": grid.scale, "rows": list(grid.chosen), "seeds": list(grid.seeds),
        "protocols": [column.name for column in plan.columns], "precision": plan.precision,
        "kinds": [dataclasses.asdict(row) for row in rows],
        "training_flops": {row: dataclasses.asdict(training) for row, training in trainings(plan).items()},
        "runs": len(plan.runs), "done": sum(row.done for row in rows), "flops_left": sum(row.flops for row in rows),
        "process_seconds_left": sum(row.seconds for row in rows), "weights_bytes": disk_bytes(plan), "notes": plan.notes,
    }  # fmt: skip
    return json.dumps(value, indent=2)
