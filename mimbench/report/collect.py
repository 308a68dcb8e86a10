"""A grid and its runs, each file read once. A run whose files cannot be read keeps its place and says why."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mimbench.errors import UserError, unknown
from mimbench.inert import all_for_terminal, for_terminal
from mimbench.kinds import in_order
from mimbench.store.published import read_published
from mimbench.store.records import read_grid as read_grid_record
from mimbench.store.records import read_record
from mimbench.store.results import RunFolder, Store


@dataclass(frozen=True)
class RunRecord:
    """The content of a run's folder."""

    folder: Path
    state: str  # done, running, failed, stopped, planned, or unreadable
    spec: dict[str, Any] | None
    result: dict[str, Any] | None  # of a run that is done
    cost: dict[str, Any] | None
    attempts: dict[str, dict[str, Any]]  # by file name, which begins with the time
    problem: str  # the failure's message, or which file could not be read

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def kind(self) -> str:
        return self.name.rpartition("-")[0]


@dataclass(frozen=True)
class Column:
    protocol: str
    label: str
    metric: str
    unit: str
    fingerprint: str

    @property
    def heading(self) -> str:
        return f"{self.label} ({self.unit})" if self.unit else self.label


@dataclass(frozen=True)
class Row:
    name: str
    label: str
    description: str
    paper: dict[str, Any] | None
    reference: str  # the row it is compared with; its own name if it is a reference
    runs: dict[int, dict[str, str]]  # seed -> kind or protocol -> run
    improves: str | None = None  # the protocol, named before any run, in which it should exceed its reference
    flops: dict[str, Any] | None = None  # of its whole training, and whether it builds on weights from elsewhere
    point: dict[str, Any] = field(default_factory=dict)  # of the grid's axes: their short names and its values

    @property
    def is_reference(self) -> bool:
        return self.reference == self.name


@dataclass(frozen=True)
class Grid:
    """A grid as last planned, with the records of its runs."""

    name: str
    scale: str
    title: str
    note: str
    config: str
    base: str  # the row that others are compared with; the first one if axes make several of it
    base_label: str
    primary: dict[str, str] | None  # the pre-specified comparison: row and protocol
    seeds: list[int]
    columns: list[Column]
    rows: list[Row]
    records: dict[str, RunRecord]
    nested: dict[str, int]  # how many pre-trainings per tokenizer and evaluations per pre-training; empty: one each
    searched: str = ""  # how the rows' learning rates were chosen
    arguments: tuple[str, ...] = ()  # of the command line that planned it

    @property
    def unit(self) -> str:
        """What the statistics count. The seeds of a replicate share runs, so they are not independent."""
        return "replicate" if self.nested else "seed"

    def replicate(self, seed: int) -> int:
        """Seeds of one replicate share the outermost stage; without nesting, each is one."""
        return seed // math.prod(self.nested.values())

    def row(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)

    def label(self, kind: str) -> str:
        """Of a protocol, its column's; a kind that has no column is named as it is, in words."""
        return next((column.label for column in self.columns if column.protocol == kind), kind.replace("_", " "))

    @property
    def compared_with(self) -> str:
        """What differences are from, in words. With axes, each row has the reference at its own point."""
        if len({row.reference for row in self.rows}) == 1:
            return self.row(self.base).label
        varied = self.base.endswith("]")  # by axes
        return f"{self.base_label} at the same point of the axes" if varied else "each row's own reference"

    def runs(self, row: Row, kind: str) -> dict[int, RunRecord]:
        """The runs of a row by seed, without the seeds that have none."""
        named = {seed: row.runs.get(seed, {}).get(kind) for seed in self.seeds}
        return {seed: self.records[name] for seed, name in named.items() if name}

    @functools.cached_property
    def kinds(self) -> list[str]:
        return in_order({kind for row in self.rows for runs in row.runs.values() for kind in runs})


def read_grid(store: Store, name: str, scale: str) -> Grid:
    """The grid and every run that it names."""
    path = store.grid_path(name, scale)
    if not path.exists():
        known = [found.stem for found, _ in store.grids()]
        raise unknown(str(store.root), "grid", f"{name}.{scale}", known)
    raw = all_for_terminal(read_grid_record(path))
    return _grid(raw, {run: read_run(store.run(run)) for run in runs_named(raw)})


def read_published_grid(copy: Path) -> Grid:
    """A published copy, as if its runs lay in a results folder; one that has no record is planned."""
    raw, runs = read_published(copy)
    found = {
        name: RunRecord(copy / name, run.state, run.spec, run.result if run.state == "done" else None, run.cost, run.attempts,
                        problem="")
        for name, run in runs.items()
    }  # fmt: skip
    raw = all_for_terminal(raw)
    return _grid(raw, {run: found.get(run) or _not_there(copy / run) for run in runs_named(raw)})


def runs_named(grid: dict[str, Any]) -> list[str]:
    return sorted({run for row in grid["rows"] for runs in row["runs"].values() for run in runs.values()})


def _not_there(folder: Path) -> RunRecord:
    return RunRecord(folder, "planned", None, None, None, {}, "")


def _grid(raw: dict[str, Any], records: dict[str, RunRecord]) -> Grid:
    left_out, rows = raw.get("left_out", []), _rows_in_report(raw)
    if raw["primary"] and raw["primary"]["protocol"] in left_out:
        raw["primary"] = None
    if hidden := len(raw["rows"]) - len(rows):
        raw["note"] += (
            f" Rows of the grid that were never planned here, and are not shown: {hidden} of {len(raw['rows'])}."
        )
    return Grid(
        columns=[Column(**column) for column in raw["columns"] if column["protocol"] not in left_out],
        rows=[
            Row(row["name"], row["label"], row["description"], row["paper"], row["reference"],
                {int(seed): runs for seed, runs in row["runs"].items()}, row.get("improves"), row.get("flops"),
                row.get("point", {}))
            for row in rows
        ],
        records=records,
        nested=raw.get("nested", {}),
        searched=raw.get("searched", ""),
        arguments=tuple(raw.get("arguments", ["--scale", raw["scale"]])),
        **{key: raw[key] for key in ("name", "scale", "title", "note", "config", "base", "base_label", "primary", "seeds")},
    )  # fmt: skip


def _rows_in_report(raw: dict[str, Any]) -> list[dict[str, Any]]:
    """Those that were planned, in this call or an earlier one, and what they are compared with; all, where none was."""
    planned = [row for row in raw["rows"] if row["runs"]]
    named = {raw["base"], *([raw["primary"]["row"]] if raw["primary"] else [])}
    named |= {name for row in planned for name in (row["name"], row["reference"])}
    return [row for row in raw["rows"] if row["name"] in named] if planned else raw["rows"]


def read_run(folder: RunFolder) -> RunRecord:
    """An unreadable file is named; it takes a number away only if it is the result."""
    try:
        state = folder.state()
    except (UserError, OSError) as error:
        return RunRecord(folder.path, "unreadable", None, None, None, {}, str(error))
    problems: list[str] = []

    def read(path: Path, reader: Callable[[Path], dict[str, Any]] = read_record) -> dict[str, Any] | None:
        try:
            return reader(path) if path.exists() else None
        except UserError as error:
            problems.append(str(error))
            return None

    spec = read(folder.path / "spec.json", lambda _: folder.spec())  # its digest is the folder's name
    cost = read(folder.path / "cost.json")
    found = {path.name: read(path) for path in sorted((folder.path / "attempts").glob("*.json"))}
    attempts = {name: facts for name, facts in found.items() if facts is not None}
    result = read(folder.path / "result.json") if state == "done" else None
    if state == "failed" and (failure := read(folder.path / "failures" / max(found))):
        problems.append(f"{failure['type']}: {failure['message']}")
    if state == "done" and result is None:
        state = "unreadable"
    here = f"{folder.path.parent.parent}/"  # paths relative to the results folder: a report may be read elsewhere
    return RunRecord(
        folder.path, state, spec, result, cost, attempts, for_terminal("; ".join(problems).replace(here, ""))
    )
