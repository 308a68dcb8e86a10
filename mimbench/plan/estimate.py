"""What is left to compute, the time it takes, and the disk that weights take."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import Any

from mimbench import registry
from mimbench.kinds import KINDS, forward_flops
from mimbench.parts import Encoded, PatchGrid
from mimbench.plan.graph import Plan, Planned
from mimbench.store.files import canonical
from mimbench.store.results import Store

# of one process: `make ablations` in bf16 on one core of an AMD EPYC (seconds per run: 63 to 91 pre-training, 24 fine-tuning,
# 46 segmentation); used until costs are recorded
FLOPS_PER_SECOND = 1.1e11
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


def flops_of(run: Planned, plan: Plan) -> float:
    """As counted; of evaluations, and where nothing was counted, a rough figure."""
    return plan.flops.get(run.name) or KINDS[run.kind].flops(complete(run.spec, plan))


def disk_bytes(plan: Plan) -> float:
    """Roughly, in fp32: encoders, and features."""
    return 4 * sum(KINDS[run.kind].keeps(complete(run.spec, plan)) for run in plan.runs.values())


def complete(spec: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """With what prices need and the run itself finds out: all images of a split in numbers, a tokenizer's FLOPs."""
    if spec["kind"] == "tokenizer":
        side = spec["training"]["crop"] or spec["data"]["size"]
        teacher = canonical(_encoder(plan.runs[spec["parents"]["teacher"]].spec)) if "parents" in spec else None
        flops = _training_flops(canonical(spec["tokenizer"]), side, spec["patch"], teacher)
        return {**spec, "flops_per_image": flops}
    if "counts" not in spec:
        return spec
    available = plan.available["masks" if KINDS[spec["kind"]].reads_masks else "labels"]
    return {**spec, "counts": {split: count or available[split] for split, count in spec["counts"].items()}}


def _encoder(spec: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = spec["recipe"]["encoder"] if "recipe" in spec else spec["encoder"]
    return found


class _StandIn:
    """In place of a teacher: counts how often it is asked."""

    def __init__(self, encoder: dict[str, Any], grid: PatchGrid) -> None:
        self.dim, self.depth, self.grid, self.passes = encoder["dim"], encoder["depth"], grid, 0

    def __call__(self, images: Any, masks: Any = None, taps: tuple[int, ...] = ()) -> Encoded:
        self.passes += 1
        tokens = images.new_zeros(len(images), 1 + self.grid.count, self.dim)
        return Encoded(tokens[:, 1:], tokens[:, 0], None, dict.fromkeys(taps, tokens))


@functools.cache
def _training_flops(tokenizer: str, side: int, patch: int, teacher: str | None) -> float:
    """Forward and backward pass of one image through convolutions and linear layers, counted on one; and its teacher's."""
    import torch
    from torch import nn

    made, total, grid, passes = registry.build("tokenizer", json.loads(tokenizer)), 0.0, PatchGrid.of(side, patch), 0.0

    def count(layer: Any, args: Any, found: Any) -> None:
        nonlocal total
        total += 2 * found.numel() * layer.weight[0].numel()

    if made.at_once:
        return 0.0  # little, and not per step
    made.build(grid)
    if teacher is not None:
        made.learn_from(taught := _StandIn(json.loads(teacher), grid))
    for layer in made.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        image = torch.rand(1, 3, side, side)
        made.training_loss({"raw": image, "image": image}, 0.0)
    if teacher is not None:
        passes = taught.passes * forward_flops(json.loads(teacher), side)
    return 3 * total + passes
