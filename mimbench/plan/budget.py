"""Equal compute: the steps at which each row's whole training takes as many FLOPs as one row's."""

from __future__ import annotations

from mimbench.config.schema import Grid, Row
from mimbench.errors import UserError
from mimbench.plan.compute import Training, schedule_of, training_of
from mimbench.plan.graph import Plan
from mimbench.plan.pairing import ancestors

LEAST = 0.01  # of the budget, for a row itself: where rows it builds on fill the budget, rounding leaves a few steps


def steps_within(plan: Plan) -> dict[str, int]:
    """Of the rows whose length the budget sets. `plan`: with FLOPs, of the rows as they are without a budget.

    A row's ancestors come first: how long they train is part of what it costs.
    """
    grid, found = plan.grid, {}
    budget = _budget(plan)
    per_step = {row.name: _per_step(plan, row.name) for row in grid.rows if row.budgeted}
    for row in _in_order(grid):
        if not row.budgeted:
            continue
        training = _training(plan, row.name)
        left = budget - training.ancestors
        if left < max(LEAST * budget, per_step[row.name]):
            raise _too_small(plan, row, training, budget)
        found[row.name] = steps = round(left / per_step[row.name])
        plan.flops[_run(plan, row.name)] = steps * per_step[row.name]
    return {row.name: found[row.name] for row in grid.rows if row.name in found}


def _budget(plan: Plan) -> float:
    """The FLOPs of the row that sets it."""
    name = plan.grid.budget_row
    assert name is not None
    total = _training(plan, name).total
    if not total:
        raise UserError(f"{plan.grid.config}: budget_row: '{name}' is not trained; name a row that is.")
    return total


def _training(plan: Plan, row: str) -> Training:
    training = training_of(plan, row)
    assert training is not None
    return training


def _run(plan: Plan, row: str) -> str:
    return next(iter(plan.rows[row].values()))["pretrain"]


def _per_step(plan: Plan, row: str) -> float:
    run = _run(plan, row)
    return plan.flops[run] / float(schedule_of(plan.runs[run])["steps"])


def _in_order(grid: Grid) -> list[Row]:
    """Each row after those that it builds on."""
    rows = {row.name: row for row in grid.rows}
    names = [name for row in grid.rows for name in (*ancestors(row, grid), row.name)]
    return [rows[name] for name in dict.fromkeys(names)]


def _too_small(plan: Plan, row: Row, training: Training, budget: float) -> UserError:
    behind = [f"row '{name}'" for name in ancestors(row, plan.grid)] or ["its tokenizer"]
    needed, given = (f"{value / 1e12:,.4g} TFLOPs" for value in (training.ancestors, budget))
    return UserError(
        f"{plan.grid.config}: row '{row.name}': what is trained before it ({', '.join(behind)}) takes {needed}, and the budget, "
        f"that of row '{plan.grid.budget_row}', is {given}. Let a row that it builds on state fewer schedule.steps."
    )
