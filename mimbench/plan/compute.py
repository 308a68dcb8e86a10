"""The FLOPs of a row's whole training, with all that is trained for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mimbench.parts import FILE
from mimbench.plan.estimate import flops_of
from mimbench.plan.graph import Plan, Planned, encoder_of
from mimbench.store.files import canonical

TOLERANCE = 0.05  # of a budget: seeds, and other ways to count, differ by less
TRAINED = ("tokenizer", "pretrain")  # the kinds of run whose FLOPs are counted on their objective


@dataclass(frozen=True)
class Training:
    """Of one row and seed. What rows share counts in full for each of them: as if it were trained for that row alone."""

    own: float  # FLOPs of its pre-training
    ancestors: float  # of tokenizers, teacher and start, and what these build on
    external: bool  # it builds on weights from elsewhere; what training these took is not known

    @property
    def total(self) -> float:
        return self.own + self.ancestors


def training_of(plan: Plan, row: str) -> Training | None:
    """None for a row of which no run is planned."""
    seeds = plan.rows[row]
    if not seeds:
        return None
    runs = next(iter(seeds.values()))
    try:
        last = encoder_of(runs)
    except StopIteration:  # a random encoder
        return Training(0.0, 0.0, external=False)
    behind = {run.name: run for run in _with_ancestors(plan, last)}
    own = flops_of(behind.pop(last), plan) if plan.runs[last].kind == "pretrain" else 0.0
    foreign = any(_is_foreign(run) for run in (*behind.values(), plan.runs[last]))
    return Training(own, sum(flops_of(run, plan) for run in behind.values()), foreign)


def trainings(plan: Plan) -> dict[str, Training]:
    """By row, of those that are planned here; none where FLOPs were not counted."""
    found = {row: training_of(plan, row) for row in plan.rows} if plan.flops else {}
    return {row: training for row, training in found.items() if training is not None}


def beyond_budget(plan: Plan) -> list[str]:
    """The rows that do not train for the FLOPs of the budget's row: the steps in the grid file are of other settings."""
    budget_row = plan.grid.budget_row
    whole = training_of(plan, budget_row) if budget_row is not None and plan.flops else None
    if whole is None:
        return []
    found = []
    for row in plan.grid.rows:
        training = training_of(plan, row.name) if row.budgeted else None
        if training is None:
            continue
        step = training.own / row.recipe.schedule.steps  # no budget is met more closely
        if abs(training.total - whole.total) > max(TOLERANCE * whole.total, step):
            found.append(f"{row.label} ({training.total / whole.total:.2g} x)")
    return found


def schedule_of(run: Planned) -> dict[str, Any]:
    """Of a training run."""
    schedule: dict[str, Any] = run.spec["recipe"]["schedule"] if "recipe" in run.spec else run.spec["training"]
    return schedule


def encoder_behind(run: Planned) -> dict[str, Any] | None:
    """The encoder that a run leaves; None: it leaves none."""
    encoder: dict[str, Any] | None = run.spec["recipe"]["encoder"] if "recipe" in run.spec else run.spec.get("encoder")
    return encoder


def _with_ancestors(plan: Plan, name: str) -> Iterator[Planned]:
    yield plan.runs[name]
    for parent in plan.runs[name].parents:
        yield from _with_ancestors(plan, parent)


def _is_foreign(run: Planned) -> bool:
    """Its weights, or those of a part, are files that were not made here."""
    return run.kind == "checkpoint" or FILE in canonical(run.spec.get("recipe", run.spec.get("tokenizer", "")))
