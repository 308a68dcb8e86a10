"""What is left to compute, the time it takes, and the disk that weights take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mimbench.kinds import KINDS
from mimbench.plan.graph import Plan, Planned
from mimbench.store.results import Store

# of one process: `make ablations` in bf16 on one core of an AMD EPYC (seconds per run: 63 to 91 pre-training, 24 fine-tuning,
# 46 segmentation); used until costs are recorded
FLOPS_PER_SECOND = 1.1e11
START_SECONDS = 2.0  # of a process: opening data, building models
SAMPLE = 20  # recorded costs that an average is taken over


@dataclass(frozen=True)
class Estimate:
    kind: str
    runs: int
    shared: int
    done: int
    flops: float  # of the runs that are left
    seconds: float  # of one process, or accelerator, for them
    measured: bool  # from recorded costs, not from FLOPs


def estimate(plan: Plan, store: Store, throughput: float | None = None) -> list[Estimate]:
    """By kind of run, with the time that one process needs for what is left, or an accelerator of this many FLOPs a second."""
    by_kind: dict[str, list[Planned]] = {}
    for run in plan.runs.values():
        by_kind.setdefault(run.kind, []).append(run)
    rows = []
    for kind, runs in by_kind.items():
        finished = {run.name: store.run(run.name).done() for run in runs}
        done, left = ([run for run in runs if finished[run.name] is state] for state in (True, False))
        costs = [store.run(run.name).cost() for run in done[:SAMPLE]]
        recorded = [cost["seconds"] for cost in costs if cost] if throughput is None else []
        flops = sum(flops_of(run, plan) for run in left)
        if recorded:
            seconds = len(left) * sum(recorded) / len(recorded)
        else:
            seconds = flops / (throughput or FLOPS_PER_SECOND)
        shared = sum(plan.uses[run.name] > 1 for run in runs)
        rows.append(Estimate(kind, len(runs), shared, len(done), flops, seconds, bool(recorded)))
    return rows


def seconds_by_run(plan: Plan, store: Store) -> dict[str, float]:
    """Of one process, for each run that is left."""
    kinds = {row.kind: row for row in estimate(plan, store)}
    left = [run for run in plan.runs.values() if not store.run(run.name).done()]
    return {run.name: _seconds(run, kinds[run.kind], plan) for run in left}


def _seconds(run: Planned, kind: Estimate, plan: Plan) -> float:
    mean = kind.seconds / (kind.runs - kind.done)
    return mean if kind.measured else START_SECONDS + flops_of(run, plan) / FLOPS_PER_SECOND


def flops_of(run: Planned, plan: Plan) -> float:
    """As counted (run/flops.py); of evaluations, and of pre-trainings that nobody counted, a rough figure."""
    return plan.flops.get(run.name) or KINDS[run.kind].flops(complete(run.spec, plan))


def disk_bytes(plan: Plan) -> float:
    """Roughly, in fp32: encoders, and features."""
    return 4 * sum(KINDS[run.kind].keeps(complete(run.spec, plan)) for run in plan.runs.values())


def complete(spec: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """With what prices need and the run itself finds out: all images of a split in numbers."""
    if "counts" not in spec:
        return spec
    available = plan.available["masks" if KINDS[spec["kind"]].reads_masks else "labels"]
    return {**spec, "counts": {split: count or available[split] for split, count in spec["counts"].items()}}
