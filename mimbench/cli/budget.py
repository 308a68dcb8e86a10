"""`mimbench budget GRID`: writes each row's steps into the grid file, so that all rows train for equal FLOPs.

The figures stand in the file, and the names of runs follow from it: not from how FLOPs are counted today.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import yaml

from mimbench.config.grid import load_grid
from mimbench.config.merge import find, parse, read_yaml
from mimbench.errors import UserError
from mimbench.plan.budget import steps_within
from mimbench.plan.compute import training_of
from mimbench.plan.graph import Plan, make_plan
from mimbench.report.format import flops
from mimbench.run.flops import add_flops
from mimbench.store.files import write_atomically
from mimbench.store.results import Store

BEGIN = "# Steps at equal FLOPs of training, by scale and row. Written by `mimbench budget`; change nothing here."
END = "# (end of what `mimbench budget` writes)"


def write_budget(options: argparse.Namespace) -> list[str]:
    """The lines to print: what each row gets."""
    grid = load_grid(options.file, scale=options.scale, seeds=1, within_budget=False, at_searched=False)
    if grid.budget_row is None:
        raise UserError(
            f"{grid.config}: budget: is steps: all rows train equally long. For equal FLOPs: `budget: flops`."
        )
    plan = make_plan(grid)
    add_flops(plan, Store(options.results))
    steps = steps_within(plan)
    path = find(options.file)
    before = read_yaml(path).get("steps") or {}
    write_atomically(path, with_block(path, {**before, grid.sizes: steps}))
    return [*_lines(plan, steps), f"Written to {path}"]


def _lines(plan: Plan, steps: dict[str, int]) -> list[str]:
    width = max(len(row.name) for row in plan.grid.rows)
    lines = [f"{'row':{width}}{'steps':>9}{'FLOPs':>12}"]
    for row in plan.grid.rows:
        training = training_of(plan, row.name)
        if row.recipe.pretrain and training:
            stated = "" if row.budgeted else " (its own)"
            length = steps.get(row.name, row.recipe.schedule.steps)
            lines.append(f"{row.name:{width}}{length:>9}{flops(training.total):>12}{stated}")
    return lines


def with_block(path: Path, steps: dict[str, dict[str, int]]) -> str:
    """The file's text with these steps between the two comments, which are appended where they are not there."""
    text = path.read_text(encoding="utf-8")
    block = f"{BEGIN}\n{yaml.safe_dump({'steps': steps}, sort_keys=False)}{END}\n"
    before, begin, rest = text.partition(f"{BEGIN}\n")
    _, end, after = rest.partition(f"{END}\n")
    if begin and not end:
        raise UserError(f"{path}: the line '{END}' is missing; write it where the steps end.")
    new = before + block + after if begin else f"{text.rstrip()}\n\n{block}"
    try:
        same = parse(new) == {**parse(text), "steps": steps}
    except yaml.YAMLError:
        same = False
    if not same:
        raise UserError(
            f"{path}: steps: must stand between the lines that `mimbench budget` writes; delete them there."
        )
    return new
