"""`mimbench search GRID`: tries learning rates for every row, and writes the file that the grid then reads.

Round by round, each an ordinary grid named GRID-search: values, then one more at an edge where a row's best is. What
is done is not done again, so the command goes on where it, or a cluster, left off.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from mimbench.cli.dispatch import command, parse_target
from mimbench.config.grid import load_grid
from mimbench.config.merge import find
from mimbench.config.rates import RULE, Searched, searched_path
from mimbench.config.schema import Grid
from mimbench.config.search import Search
from mimbench.errors import EXIT_FAILED, EXIT_OK, Diverged, UserError
from mimbench.plan.graph import Plan, make_plan
from mimbench.plan.search import EXTENSIONS, Scores, best, extended, name_of, tries
from mimbench.store.files import write_atomically
from mimbench.store.results import Store

CarryOut = Callable[[Plan], int]


@dataclass(frozen=True)
class Rates:
    """The values of one round, and how every row did at them."""

    values: tuple[float, ...]
    scores: Mapping[str, Scores]  # by row
    chosen: dict[str, int | None]  # by row, the position of the best value


def search_grid(options: argparse.Namespace, carry_out: CarryOut) -> int:
    grid = load_grid(options.file, scale=options.scale, at_searched=False)
    if grid.search is None:
        example = f"search: {{lr: [5e-4, 1e-3, 2e-3], protocols: [{grid.protocols[0]}]}}"
        raise UserError(f"{grid.config}: search: missing: what is to be tried, such as `{example}`.")
    _, profile = parse_target(options.on)
    on_gpus, store = bool(profile and profile.of("pretrain").gpus), Store(options.results)
    values = tuple(sorted(grid.search.lr))
    least = max((row.recipe.schedule.min_lr for row in grid.rows if row.searched), default=0.0)
    for extensions in range(EXTENSIONS + 1):
        tried = tries(grid, grid.search, values)
        plan = make_plan(tried, on_gpus=on_gpus)
        left = tuple(row for row in tried.chosen if not _diverged(plan, row, store))
        some = plan if left == tried.chosen else make_plan(replace(tried, chosen=left), on_gpus=on_gpus)
        code = carry_out(some) if left else EXIT_OK
        if options.dry_run:
            return code
        if unfinished := [row for row in left if not (_done(plan, row, store) or _diverged(plan, row, store))]:
            if code == EXIT_OK:  # sent to a cluster
                print(
                    f"{len(unfinished)} of {len(tried.chosen)} tries are not done. When they are: {command(options.argv)}"
                )
            return code
        rates = _rates(plan, grid, values, store)
        wider = extended(values, rates.chosen.values(), least)
        if wider == values or extensions == EXTENSIONS:
            break
        values = wider
        print(f"Best at an edge, so every row is tried at {_listed(values)}.", file=sys.stderr)
    return _write(searched_path(find(options.file), grid.name, grid.sizes), rates, grid, grid.search)


def _runs(plan: Plan, row: str) -> list[str]:
    return [run for runs in plan.rows[row].values() for run in runs.values()]


def _done(plan: Plan, row: str, store: Store) -> bool:
    return all(store.run(run).done() for run in _runs(plan, row))


def _diverged(plan: Plan, row: str, store: Store) -> bool:
    """A run that stopped for another reason is to be repeated, and is no score."""
    folders = [store.run(run) for run in _runs(plan, row)]
    return any(
        folder.state() == "failed" and folder.last_failure().get("type") == Diverged.__name__ for folder in folders
    )


def _rates(plan: Plan, grid: Grid, values: Sequence[float], store: Store) -> Rates:
    scores = {}
    for row in (row.name for row in grid.rows if row.searched):
        names = [name_of(row, lr) for lr in values]
        scores[row] = {c.name: [_score(plan, name, c.name, c.metric, store) for name in names] for c in plan.columns}
    return Rates(tuple(values), scores, {row: best(of_row) for row, of_row in scores.items()})


def _score(plan: Plan, row: str, protocol: str, metric: str, store: Store) -> float | None:
    """The mean over seeds; None where training diverged on one of them."""
    if _diverged(plan, row, store):
        return None
    results = [store.run(runs[protocol]).result() for runs in plan.rows[row].values()]
    return round(statistics.fmean(result["metrics"][metric] for result in results), 4)


def _write(path: Path, rates: Rates, grid: Grid, search: Search) -> int:
    values = rates.values
    chosen = {row: values[index] for row, index in rates.chosen.items() if index is not None}
    found = Searched(
        scale=grid.scale, seeds=search.seeds, protocols=search.protocols, values=values, chosen=chosen,
        at_edge=tuple(row for row, lr in chosen.items() if lr in (values[0], values[-1])),
        failed=tuple(row for row, index in rates.chosen.items() if index is None),
        scores={row: {name: list(of_values) for name, of_values in scores.items()} for row, scores in rates.scores.items()},
    )  # fmt: skip
    write_atomically(path, as_text(found, grid.name))
    for line in _lines(found):
        print(line)
    print(f"Tried {_listed(values)}. Written to {path}, for a grid with `searched: true`.", flush=True)
    return EXIT_FAILED if found.failed else EXIT_OK


def _lines(found: Searched) -> Iterator[str]:
    """One per row: what was chosen, and what is to be known of it."""
    width = max(map(len, found.scores))
    for row, scores in found.scores.items():
        diverged = [lr for lr, *of_lr in zip(found.values, *scores.values(), strict=True) if None in of_lr]
        said = [f"diverged at {_listed(diverged)}"] if diverged else []
        said += ["at the edge of the values tried"] if row in found.at_edge else []
        chosen = f"{found.chosen[row]:g}" if row in found.chosen else "none"
        yield f"{row:{width}}  {chosen}" + (f" ({'; '.join(said)})" if said else "")


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{lr:g}" for lr in values)


def as_text(found: Searched, grid: str) -> str:
    """YAML that `with_rates` reads."""
    value = {key: list(item) if isinstance(item, tuple) else item for key, item in dataclasses.asdict(found).items()}
    head = (
        f"# Learning rates of {grid}, by `mimbench search`: of the values, {RULE} over the protocols.\n"
        "# Scores are in the order of the values, null where training diverged. Change nothing here.\n"
    )
    return head + yaml.safe_dump(value, sort_keys=False, default_flow_style=None, width=120)
