"""All rows of all grids in one view: ranked where data, protocol and pre-training budget are the same, and nowhere else."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from mimbench.kinds import PROTOCOLS
from mimbench.report.analysis import Analysis, Cell
from mimbench.report.collect import Grid, Row
from mimbench.report.format import flops as flops_text
from mimbench.report.ranking import ranks
from mimbench.report.statistics import Summary, summarize
from mimbench.store.files import fingerprint

TOLERANCE = 0.05  # of FLOPs: within it rows trained for the same budget
NO_PRETRAINING, UNKNOWN = "no pre-training", "pre-training budget not known (weights from elsewhere)"
TRAINED = ("tokenizer", "pretrain", "checkpoint", "finetuned")  # the kinds of run behind a row's encoder
Key = tuple[str, int]  # how seeds are nested, and the seed or replicate


@dataclass(frozen=True)
class Origin:
    """Where the records of a grid lie, as links from the page."""

    place: str
    report: str
    runs: str | None  # None: a published copy, without folders of runs


@dataclass(frozen=True)
class Group:
    """What numbers must share to be ranked."""

    protocol: str
    label: str
    metric: str
    unit: str
    data: str
    data_fingerprint: str
    fingerprint: str
    budget: str = ""

    @property
    def order(self) -> tuple[Any, ...]:
        return (
            self.data,
            PROTOCOLS.index(self.protocol) if self.protocol in PROTOCOLS else 99,
            self.fingerprint,
            self.budget,
        )


@dataclass(frozen=True)
class Entry:
    """One row in one group, over its seeds."""

    label: str
    description: str
    grids: tuple[tuple[str, Origin], ...]  # in which it stands
    values: dict[Key, float]
    runs: dict[str, Origin]  # the evaluations behind the values
    same: frozenset[str]  # what its runs compute, without seeds: entries that share one are one row
    encoder: str
    data: str  # of pre-training
    images: int | None  # seen in pre-training; 0 without, None if not known
    epochs: float | None
    parameters: float | None  # of the encoder's blocks
    seconds: float | None  # mean per seed: training, and this evaluation
    flops: float | None  # of the whole training
    external: bool
    summary: Summary
    rank: int = 0


@dataclass
class Leaderboard:
    groups: dict[Group, list[Entry]]
    grids: list[tuple[Grid, Origin]]
    notices: list[str] = field(default_factory=list)


def leaderboard(analyses: Iterable[tuple[Analysis, Origin]]) -> Leaderboard:
    found = list(analyses)
    board = Leaderboard({}, [(analysis.grid, origin) for analysis, origin in found])
    entries: dict[Group, list[Entry]] = defaultdict(list)
    for analysis, origin in found:
        for group, entry in _entries(analysis, origin):
            entries[group].append(entry)
    merged = {group: _each_once(rows, board.notices) for group, rows in entries.items()}
    for group, rows in sorted(_with_baselines(merged).items(), key=lambda item: item[0].order):
        placed = [replace(row, rank=rank) for row, rank in zip(rows, ranks([row.values for row in rows]), strict=True)]
        board.groups[group] = sorted(placed, key=lambda row: (row.rank, -row.summary.mean))
    board.notices = sorted(set(board.notices))
    return board


# from grids to entries


def _entries(analysis: Analysis, origin: Origin) -> Iterator[tuple[Group, Entry]]:
    grid, identities = analysis.grid, _Identities(analysis.grid)
    budgets = _budgets(grid)
    for cell in analysis.cells.values():
        done = {seed: record for seed, record in cell.runs.items() if record.result is not None}
        if cell.summary is None or not done:
            continue
        result = next(iter(done.values())).result or {}
        column, nested = cell.column, ",".join(f"{name} {count}" for name, count in sorted(grid.nested.items()))
        group = Group(column.protocol, column.label, column.metric, column.unit, str(result["data"]["name"]),
                      str(result["data"]["fingerprint"]), column.fingerprint, budgets[cell.row.name])  # fmt: skip
        images, length = _images(grid, cell.row), _length(grid, cell.row)
        yield group, Entry(
            cell.row.label, cell.row.description, ((f"{grid.name}.{grid.scale}", origin),),
            {(nested, replicate): value for replicate, value in cell.replicates.items()},
            {record.name: origin for record in done.values()},
            frozenset(identities.of(record.name) for record in done.values()),
            **_encoder(grid, cell), data=_data_of(grid, cell.row), images=images,
            epochs=images / length if images and length else None, seconds=_seconds(grid, cell),
            flops=cell.row.flops["total"] if cell.row.flops else None,
            external=bool(cell.row.flops and cell.row.flops["external"]), summary=cell.summary,
        )  # fmt: skip


class _Identities:
    """What a run computes but for its seed and those of its parents."""

    def __init__(self, grid: Grid) -> None:
        self.grid, self.known = grid, dict[str, str]()

    def of(self, name: str) -> str:
        if name not in self.known:
            record = self.grid.records.get(name)
            spec = record.spec if record else None
            if spec is None:
                return name
            kept = {key: value for key, value in spec.items() if key not in ("seed", "parents", "places")}
            parents = {role: self.of(parent) for role, parent in spec.get("parents", {}).items()}
            self.known[name] = fingerprint({**kept, "parents": parents})
        return self.known[name]


def _each_once(entries: list[Entry], notices: list[str]) -> list[Entry]:
    """Rows that several grids share, or several laboratories computed, with the seeds of all."""
    kept: list[Entry] = []
    place: dict[str, list[int]] = defaultdict(list)  # by what is computed
    for entry in entries:
        candidates = sorted({index for same in entry.same for index in place[same]})
        fitting = [index for index in candidates if _agree(kept[index], entry)]
        if fitting:
            index = fitting[0]
            kept[index] = _joined(kept[index], entry)
        else:
            if candidates:
                other = kept[candidates[0]]
                notices.append(f"{entry.label}: {entry.grids[0][1].place} and {other.grids[0][1].place} have different results "
                               "of the same run; both are shown")  # fmt: skip
            index = len(kept)
            kept.append(entry)
        for same in entry.same:
            if index not in place[same]:
                place[same].append(index)
    return kept


def _agree(one: Entry, other: Entry) -> bool:
    return all(one.values[key] == value for key, value in other.values.items() if key in one.values)


def _joined(one: Entry, other: Entry) -> Entry:
    values = {**one.values, **other.values}
    return replace(one, values=values, runs={**other.runs, **one.runs}, grids=tuple(dict.fromkeys([*one.grids, *other.grids])),
                   same=one.same | other.same, summary=summarize(list(values.values())) or one.summary,
                   flops=other.flops if one.flops is None else one.flops)  # fmt: skip


def _with_baselines(groups: dict[Group, list[Entry]]) -> dict[Group, list[Entry]]:
    """A row without pre-training is a baseline of every budget on the same data and protocol."""
    baselines = {replace(group, budget=""): rows for group, rows in groups.items() if group.budget == NO_PRETRAINING}
    others = {group: rows for group, rows in groups.items() if group.budget != NO_PRETRAINING}
    ranked = {group: rows + baselines.get(replace(group, budget=""), []) for group, rows in others.items()}
    alone = baselines.keys() - {replace(group, budget="") for group in others}
    return ranked | {replace(group, budget=NO_PRETRAINING): baselines[group] for group in alone}


# facts of a row


def _spec(grid: Grid, row: Row, kind: str) -> dict[str, Any]:
    """Of the first run of a kind that has one."""
    records = (record for record in grid.runs(row, kind).values())
    return next((record.spec for record in records if record.spec), {})


def _images(grid: Grid, row: Row) -> int | None:
    """Seen by the encoder's own pre-training."""
    kinds = {kind for runs in row.runs.values() for kind in runs}
    if kinds & {"checkpoint", "finetuned"}:
        return None
    if "pretrain" not in kinds:
        return 0
    schedule = _spec(grid, row, "pretrain").get("recipe", {}).get("schedule")
    if schedule:
        return int(schedule["steps"] * schedule["batch"])
    costs = [record.cost for record in grid.runs(row, "pretrain").values() if record.cost]
    return int(costs[0]["images"]) if costs else None


def _length(grid: Grid, row: Row) -> int | None:
    """How many images it was pre-trained on, where the recipe says so."""
    images = _spec(grid, row, "pretrain").get("recipe", {}).get("data", {}).get("images")
    return int(images) if images else None


def _data_of(grid: Grid, row: Row) -> str:
    spec = _spec(grid, row, "pretrain")
    data = spec.get("recipe", {}).get("data", {})
    if not data:
        return ""
    return str(spec.get("places", {}).get(data.get("manifest"), data.get("name", ""))).rstrip("/").rpartition("/")[2]


def _budgets(grid: Grid) -> dict[str, str]:
    """Images seen, where all rows of the grid that are trained saw as many; else the FLOPs of those within 5 % of the reference."""
    seen = {row.name: _images(grid, row) for row in grid.rows}
    trained = [row for row in grid.rows if seen[row.name]]
    counted = {row.name: row.flops["total"] for row in trained if row.flops}
    unit = counted.get(grid.base) or next(iter(counted.values()), None)
    equal_images = len({seen[row.name] for row in trained}) < 2
    budgets = {}
    for row in grid.rows:
        images, own = seen[row.name], counted.get(row.name)
        if images == 0:
            budgets[row.name] = NO_PRETRAINING
        elif images is None:
            budgets[row.name] = UNKNOWN
        elif not equal_images and unit and own and math.isclose(own, unit, rel_tol=TOLERANCE):
            budgets[row.name] = f"{flops_text(float(f'{unit:.2g}'))} FLOPs of training, within {TOLERANCE:.0%}"
        else:
            budgets[row.name] = f"{images:,} images seen in pre-training"
    return budgets


def _encoder(grid: Grid, cell: Cell) -> dict[str, Any]:
    """Its words, and roughly its parameters: those of the blocks."""
    spec = next((record.spec for record in cell.runs.values() if record.spec and "encoder" in record.spec), None)
    if spec is None:
        return {"encoder": "", "parameters": None}
    encoder = spec["encoder"]
    words = f"{encoder.get('type', '')} {encoder.get('dim', '')} x {encoder.get('depth', '')}, patch {encoder.get('patch', '')}"
    plain = not encoder.get("stages") and {"dim", "depth"} <= encoder.keys()
    mlp = encoder.get("mlp_ratio", 4)
    return {"encoder": words, "parameters": encoder["depth"] * encoder["dim"] ** 2 * (4 + 2 * mlp) if plain else None}


def _seconds(grid: Grid, cell: Cell) -> float | None:
    """Mean over the seeds of which all costs are known."""
    whole = []
    for seed, evaluation in cell.runs.items():
        behind = [grid.records[name] for kind, name in cell.row.runs[seed].items() if kind in TRAINED]
        costs = [record.cost for record in (*behind, evaluation)]
        if evaluation.result is not None and all(costs):
            whole.append(math.fsum(cost["seconds"] for cost in costs if cost))
    return math.fsum(whole) / len(whole) if whole else None
