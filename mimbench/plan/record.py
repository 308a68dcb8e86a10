"""The record of a grid: which runs make up which row. It is what the report reads."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path
from typing import Any

from mimbench.config.merge import packaged
from mimbench.config.schema import Grid, Nested, as_spec
from mimbench.plan.compute import beyond_budget, training_of
from mimbench.plan.description import descriptions
from mimbench.plan.graph import Plan, Planned
from mimbench.store.files import is_path, map_threads, remove_leftovers
from mimbench.store.records import GRID_FORMAT, read_record, write_record
from mimbench.store.results import Store


def prepare(plan: Plan, store: Store) -> None:
    """Write the specs and the record. A folder that holds another spec under its name stops everything here."""
    store.check_writable()
    remove_leftovers(store.root / "grids")
    for sha256, origin in plan.files.items():
        store.import_file(sha256, origin.path, {"name": origin.name, "license": origin.license})
    map_threads(lambda run: _create(run, store), plan.runs.values())
    for folder in map(store.run, plan.runs):
        if folder.done():
            folder.result()  # a damaged one raises now, not in the report
    write_grid_record(plan, store)


def _create(run: Planned, store: Store) -> None:
    """A folder that nobody can write to fails its own run, when it is its turn."""
    with contextlib.suppress(PermissionError, NotADirectoryError, FileExistsError):
        store.run(run.name).create(run.spec)


def write_grid_record(plan: Plan, store: Store) -> None:
    """Write the record; runs of earlier calls stay in it where columns and row mean the same."""
    new, path = record(plan), store.grid_path(plan.grid.name, plan.grid.scale)
    if path.exists():
        old = read_record(path)
        if old.get("format") == GRID_FORMAT and _meaning(old) == _meaning(new):
            _keep_runs(new, old, add_seeds=not plan.grid.only_these_seeds)
    planned = {kind for row in new["rows"] for runs in row["runs"].values() for kind in runs}
    if left_out := [column["protocol"] for column in new["columns"] if column["protocol"] not in planned]:
        new["left_out"] = left_out  # by --protocols, of every call so far: no columns of the report
    write_record(path, new)


def _meaning(grid: dict[str, Any]) -> list[Any]:
    """What its columns measure, and which runs its seeds share."""
    return [grid.get("nested"), *(column["fingerprint"] for column in grid["columns"])]


def _keep_runs(new: dict[str, Any], old: dict[str, Any], *, add_seeds: bool) -> None:
    """Of unchanged rows, for the seeds of this call and protocols that it left out. `add_seeds`: and for those that continue 0, 1, 2, ...

    Seeds that a list once named are dropped with the list: settings may have been chosen on them.
    """
    earlier = {(row["name"], row["key"]): row["runs"] for row in old["rows"]}
    flops = {(row["name"], row["key"]): row.get("flops") for row in old["rows"]}
    for row in new["rows"]:
        before = earlier.get((row["name"], row["key"]), {})
        row["runs"] = {
            seed: {**before.get(seed, {}), **row["runs"].get(seed, {})} for seed in {**before, **row["runs"]}
        }
        if found := flops.get((row["name"], row["key"])):
            row.setdefault("flops", found)
    seeds = set(new["seeds"])
    if add_seeds:
        found = {int(seed) for row in new["rows"] for seed in row["runs"]}
        seeds |= set(itertools.takewhile(found.__contains__, itertools.count()))
    for row in new["rows"]:
        row["runs"] = {seed: runs for seed, runs in row["runs"].items() if int(seed) in seeds}
    new["seeds"] = sorted(seeds)


def record(plan: Plan) -> dict[str, Any]:
    """What the report needs to know of the grid, as JSON: all rows of the file, the runs of those that were chosen."""
    grid = plan.grid
    equal = ""
    if grid.budget_row is not None:
        label = next(row.label for row in grid.rows if row.name == grid.budget_row)
        equal = f"Equal compute: a row trains, with all that is trained for it, for as many FLOPs as {label}."
        if others := beyond_budget(plan):
            equal = f"**Not at equal compute**, against {label}: {', '.join(others)}. `mimbench budget` writes steps that fit."
        own = [row.label for row in grid.rows if plan.rows[row.name] and row.recipe.pretrain and not row.budgeted]
        equal += f" Of a length of their own: {', '.join(own)}." if own else ""
    changed = f"Changed on the command line: `{' '.join(grid.sets)}`." if grid.sets else ""
    columns = [
        {"protocol": c.name, "label": c.label, "metric": c.metric, "unit": c.unit, "fingerprint": c.fingerprint}
        for c in plan.columns
    ]
    described = descriptions(grid.rows)
    rows = [
        {"name": r.name, "label": r.label, "description": described[r.name], "paper": r.paper, "key": plan.keys[r.name],
         "reference": r.reference, "runs": {str(seed): runs for seed, runs in plan.rows[r.name].items()},
         **_flops(plan, r.name), **({} if r.improves is None else {"improves": r.improves}), **({"point": r.point} if r.point else {})}
        for r in grid.rows
    ]  # fmt: skip
    return {
        "format": GRID_FORMAT, "name": grid.name, "scale": grid.scale, "title": grid.title, "config": grid.config,
        "note": " ".join(n for n in (grid.note, grid.scale_note, equal, changed, *plan.notes) if n),
        "base": grid.reference, "base_label": grid.reference_label, "primary": grid.primary,
        "seeds": list(grid.seeds), "columns": columns, "rows": rows, "arguments": _arguments(grid),
        **({"searched": grid.searched} if grid.searched else {}),
        **({} if grid.nested == Nested() else {"nested": as_spec(grid.nested)}),
    }  # fmt: skip


def _arguments(grid: Grid) -> list[str]:
    """Of the command that plans these rows again; a folder of images by its name, for its place is nobody else's business."""
    scale = Path(grid.scale_file)
    words = ["--scale", scale.stem if scale.parent == packaged("scales") else scale.name]
    if grid.data is not None:
        words += ["--data", Path(grid.data).name if is_path(grid.data) else grid.data]
    return words + [word for text in grid.sets for word in ("--set", text)]


def _flops(plan: Plan, row: str) -> dict[str, Any]:
    """Of its whole training, where they were counted."""
    training = training_of(plan, row) if plan.flops else None
    return {} if training is None else {"flops": {"total": training.total, "external": training.external}}
