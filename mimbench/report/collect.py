"""A grid and its runs, read from the store once; what is missing or unreadable is kept as such, never an exception."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from mimbench.errors import UserError, unknown
from mimbench.store.files import read_json
from mimbench.store.records import ATTEMPT, LARGEST, is_number, read_record
from mimbench.store.records import read_grid as read_grid_record
from mimbench.store.results import RunFolder, Store

T = TypeVar("T")


@dataclass(frozen=True)
class Record:
    """What a run's folder says."""

    folder: Path
    state: str  # done, running, failed, stopped, planned, or unreadable
    spec: dict[str, Any] | None
    result: dict[str, Any] | None  # of a run that is done
    cost: dict[str, Any] | None
    attempts: dict[str, dict[str, Any]]  # by file name, which begins with the time
    problem: str  # the failure's message, or what could not be read

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
    fingerprint: str | None

    @property
    def heading(self) -> str:
        return f"{self.label} ({self.unit})" if self.unit else self.label


@dataclass(frozen=True)
class Row:
    name: str
    label: str
    description: str
    paper: dict[str, Any] | None
    reference: str  # the row it is compared with: itself, or one that is compared with none
    runs: dict[int, dict[str, str]]  # seed -> kind or protocol -> run

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
    base: str  # the row that the others are compared with; of those that axes make of one, the first
    base_label: str
    primary: tuple[str, str] | None  # the one comparison named beforehand: row, protocol
    seeds: tuple[int, ...]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    records: dict[str, Record]

    def row(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)

    @property
    def at_same_point(self) -> bool:
        """Axes make several rows of the reference: each row is compared with the one that differs in nothing but itself."""
        return len({row.reference for row in self.rows}) > 1

    @property
    def compared_with(self) -> str:
        """What differences are from, in words."""
        return f"{self.base_label} at the same point of the axes" if self.at_same_point else self.row(self.base).label

    def runs(self, row: Row, kind: str) -> dict[int, Record]:
        """The runs of a row by seed; seeds for which none is planned are left out."""
        named = {seed: row.runs.get(seed, {}).get(kind) for seed in self.seeds}
        return {seed: self.records[name] for seed, name in named.items() if name}

    def kinds(self) -> list[str]:
        """In the order of the work: what comes before the evaluations first, then the columns."""
        protocols = [column.protocol for column in self.columns]
        found = [kind for row in self.rows for runs in row.runs.values() for kind in runs]
        earlier = [kind for kind in dict.fromkeys(found) if kind not in protocols]
        order = {"tokenizer": 0, "pretrain": 1}
        return sorted(earlier, key=lambda kind: order.get(kind, 2)) + [p for p in protocols if p in found]


def read_grid(store: Store, name: str, scale: str) -> Grid:
    """The grid and every record that it names."""
    path = store.grid_path(name, scale)
    if not path.exists():
        known = [found.stem for found, _ in store.grids()]
        raise unknown(str(store.root), "grid", f"{name}.{scale}", known)
    raw = read_grid_record(path)
    base = raw.get("base") or ""
    rows = tuple(_row(row, base) for row in raw["rows"])
    row_names = [row.name for row in rows]
    for place, reference in [("base", base), *((f"row {row.name}: reference", row.reference) for row in rows)]:
        if reference not in row_names:
            raise unknown(f"{path}: {place}", "row", reference, row_names)
    primary = (raw["primary"]["row"], raw["primary"]["protocol"]) if raw.get("primary") else None
    if primary and primary[0] not in row_names:
        raise unknown(f"{path}: primary.row", "row", primary[0], row_names)
    columns = tuple(map(_column, raw["columns"]))
    names = sorted({run for row in rows for runs in row.runs.values() for run in runs.values()})
    return Grid(raw["name"], raw["scale"], raw.get("title") or raw["name"], raw.get("note") or "",
                raw.get("config") or "", base, raw.get("base_label") or base, primary, tuple(raw["seeds"]), columns, rows,
                {run: _read_run(store.run(run), columns) for run in names})  # fmt: skip


def _column(raw: dict[str, Any]) -> Column:
    label = raw.get("label") or raw["protocol"]
    return Column(raw["protocol"], label, raw["metric"], raw.get("unit") or "", raw.get("fingerprint"))


def _row(raw: dict[str, Any], base: str) -> Row:
    """A record from before rows named their reference has one for all of them."""
    runs = {int(seed): dict(kinds) for seed, kinds in raw["runs"].items()}
    return Row(raw["name"], raw.get("label") or raw["name"], raw.get("description") or "", raw.get("paper"),
               raw.get("reference") or base, runs)  # fmt: skip


def _read_run(folder: RunFolder, columns: tuple[Column, ...]) -> Record:
    """What its files say; one that is not what it should be is named, and takes a number away only if it is the result."""
    problems: list[str] = []

    def tried(read: Callable[[], T]) -> T | None:
        try:
            return read()
        except UserError as error:
            problems.append(str(error))
            return None

    state = tried(folder.state) or "unreadable"
    spec_path = folder.path / "spec.json"
    spec = tried(partial(read_json, spec_path)) if spec_path.exists() else None
    cost = tried(folder.cost)
    found = {path.name: tried(partial(read_record, path, ATTEMPT))
             for path in sorted((folder.path / "attempts").glob("*.json"))}  # fmt: skip
    attempts = {name: facts for name, facts in found.items() if facts is not None}
    result = tried(partial(_checked, folder, columns)) if state == "done" else None
    if state == "failed" and (failure := tried(folder.last_failure)):
        problems.append(f"{failure.get('type')}: {failure.get('message')}")
    if state == "done" and result is None:
        state = "unreadable"
    here = f"{folder.path.parent.parent}/"  # said relative to the results folder: a report may be read elsewhere
    return Record(folder.path, state, spec, result, cost, attempts, "; ".join(problems).replace(here, ""))


def _checked(folder: RunFolder, columns: tuple[Column, ...]) -> dict[str, Any]:
    """The result; an evaluation's must hold a finite number under the metric that it names."""
    result = folder.result()
    if any(folder.kind == column.protocol for column in columns):
        metric = result.get("metric")
        if not is_number((result.get("metrics") or {}).get(metric)):
            wrong = f"metrics.{metric} is no finite number up to {LARGEST:g}"
            raise UserError(f"{folder.path / 'result.json'}: {wrong}. Move it away to have the run done again.")
    return result
