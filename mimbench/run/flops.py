"""FLOPs of a plan's training runs. Each recipe is counted once: its count is kept beside the images."""

from __future__ import annotations

import contextlib
from typing import Any

from mimbench.plan.compute import TRAINED, encoder_behind, schedule_of
from mimbench.plan.graph import Plan, Planned
from mimbench.runtime import quick_imports
from mimbench.store.files import fingerprint
from mimbench.store.records import read_if_whole, write_record
from mimbench.store.results import Store

COUNTER = 2  # raised when counts change


def add_flops(plan: Plan, store: Store) -> None:
    """Fill `plan.flops`."""
    per_image: dict[str, float] = {}
    for run in plan.runs.values():
        if run.kind in TRAINED:
            key, schedule = fingerprint(_counted(run, plan)), schedule_of(run)
            if key not in per_image:
                per_image[key] = _per_image(run, plan, store, key)
            plan.flops[run.name] = schedule["steps"] * schedule["batch"] * per_image[key]


def _per_image(run: Planned, plan: Plan, store: Store, key: str) -> float:
    path = store.cache / "flops" / f"{key}.json"
    if (known := read_if_whole(path)) is not None:
        return float(known["flops_per_image"])
    with quick_imports():  # only now: a plan whose recipes are known imports no models
        from mimbench.pretrain.flops import flops_per_image
    found = flops_per_image(run, plan)
    if store.root.is_dir():  # a plan begins no results folder
        with contextlib.suppress(OSError):
            write_record(path, {"flops_per_image": found})
    return found


def _counted(run: Planned, plan: Plan) -> list[Any]:
    """What a count depends on: neither seed nor length nor learning rate."""
    spec = run.spec
    recipe = spec["recipe"] if "recipe" in spec else {key: spec[key] for key in ("tokenizer", "patch", "data")}
    parts = {key: value for key, value in recipe.items() if key not in ("data", "schedule")}
    behind = [encoder_behind(plan.runs[parent]) for _, parent in sorted(spec.get("parents", {}).items())]
    return [COUNTER, parts, recipe["data"]["size"], schedule_of(run)["batch"], schedule_of(run).get("crop"), behind]
