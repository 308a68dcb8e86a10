"""What `mimbench search` found for a grid, in a file of its own: the learning rate at which each row trains."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mimbench.config.by_row import states
from mimbench.config.coerce import dataclass_from
from mimbench.config.merge import read_yaml
from mimbench.config.ranges import Positive, Whole
from mimbench.config.schema import Row
from mimbench.config.search import Search
from mimbench.errors import UserError, check_known

RULE = "the highest mean of the standardized scores"


@dataclass(frozen=True)
class Searched:
    """The file that `mimbench search` writes. Values and scores are in the same order; a score of null: it diverged."""

    scale: str
    seeds: tuple[Whole, ...]
    protocols: tuple[str, ...]
    values: tuple[Positive, ...]
    chosen: dict[str, Positive]
    at_edge: tuple[str, ...]  # rows whose choice is the lowest or highest value, after all extensions
    failed: tuple[str, ...]  # rows of which every value diverged
    scores: dict[str, dict[str, list[float | None]]]  # by row and protocol: means over seeds

    def sentence(self, rows: tuple[Row, ...]) -> str:
        """For the legend of the grid's table."""
        labels = {row.name: row.label for row in rows}
        own = [row.label for row in rows if row.recipe.pretrain and not row.searched]
        chosen = ", ".join(f"{labels[row]} {lr:g}" for row, lr in self.chosen.items())
        found = (
            f"Learning rates were searched: {', '.join(f'{lr:g}' for lr in self.values)} for every row, at scale "
            f"{self.scale} on unreported seeds ({', '.join(map(str, self.seeds))}); chosen was {RULE} in "
            f"{' and '.join(self.protocols)} ({chosen})."
        )
        for words, names in (
            ("Best at the edge of the values tried", [labels[row] for row in self.at_edge]),
            ("Diverged at every value, and keep their recipe's own", [labels[row] for row in self.failed]),
            ("Not searched, for they state their own", own),
        ):
            found += f" {words}: {', '.join(names)}." if names else ""
        return found


def searched_path(grid: Path, name: str, sizes: str) -> Path:
    """Of a grid's search at one scale, beside the grid's file."""
    return grid.parent / "searched" / f"{name}.{sizes}.yaml"


def with_rates(
    rows: tuple[Row, ...], search: Search, path: Path, sets: Collection[Mapping[str, Any]], command: str
) -> tuple[tuple[Row, ...], str]:
    """Each row with the learning rate that was found for it, and what to say of the search; --set has the last word."""
    if any(states(layer, "lr") for layer in sets):
        return rows, ""
    if not path.is_file():
        raise UserError(
            f"{path}: missing, and the grid says `searched: true`. Run `{command}`, which writes it; or give all rows one "
            "learning rate with --set schedule.lr=VALUE."
        )
    found = dataclass_from(Searched, read_yaml(path), f"{path}:")
    if (found.seeds, found.protocols) != (search.seeds, search.protocols) or not {*search.lr} <= {*found.values}:
        raise UserError(
            f"{path}: from other learning rates, seeds or protocols than `search:` of the grid names. Run `{command}` again."
        )
    names = [row.name for row in rows if row.searched]
    for name in (*found.chosen, *found.failed, *found.at_edge):
        check_known(f"{path}", "row whose learning rate is searched", name, names)
    if missing := [name for name in names if name not in found.chosen and name not in found.failed]:
        raise UserError(f"{path}: chosen: none for row '{missing[0]}'. Run `{command}` again: it tries what is new.")
    rated = (at_rate(row, found.chosen[row.name], str(path)) if row.name in found.chosen else row for row in rows)
    return tuple(rated), found.sentence(rows)


def at_rate(row: Row, lr: float, place: str) -> Row:
    schedule = replace(row.recipe.schedule, lr=lr)
    schedule.check(f"{place}: row '{row.name}': schedule")
    sources = {**row.sources, "schedule.lr": f"{place}: "}
    return replace(row, recipe=replace(row.recipe, schedule=schedule), sources=sources)
