"""Bring the results of several places into one folder. What is there stays; two results of one run are refused, not chosen from."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mimbench.errors import UserError, nearest
from mimbench.store.files import canonical, map_threads, sha256_file, write_atomically
from mimbench.store.merged_grid import merge_grids
from mimbench.store.published import (
    PublishedRun,
    is_of_another_version,
    is_published,
    published_curves,
    published_folders,
    read_published,
)
from mimbench.store.records import read_record, write_record
from mimbench.store.results import RunFolder, Store, holds_results

SHOWN = 5  # conflicts; the rest is counted
LONGEST = 60  # characters of a value in a message
UNFINISHED = ("checkpoint.pt", "progress.json")  # of a run under way


@dataclass(frozen=True)
class Incoming:
    """A run of a source, as its records tell it."""

    name: str
    source: Path
    spec: dict[str, Any]
    result: dict[str, Any] | None
    cost: dict[str, Any] | None
    notes: dict[str, dict[str, Any]]  # attempts and failures, by path below the run's folder
    curve: Callable[[], str | bytes | None]
    folder: RunFolder | None = None  # with its weights and logs; None: a published copy has none


@dataclass
class Source:
    path: Path
    runs: dict[str, Incoming]
    grids: list[dict[str, Any]]


@dataclass
class Merged:
    """What a merge did."""

    imported: dict[Path, int] = field(default_factory=dict)  # runs by source
    grids: list[str] = field(default_factory=list)
    without_weights: int = 0  # finished runs whose children would have them trained again


def merge(paths: list[Path], target: Store) -> Merged:
    """Everything is read and checked before the first file is written. Can be interrupted, and repeated."""
    for path in paths:
        if path.resolve() == target.root.resolve():
            raise UserError(f"{path}: is the folder to merge into; name the others only.")
    sources = [_read(path) for path in paths]
    _check_one_result_each(sources, target)
    _check_parents(sources, target)
    grids = _grids(sources, target)
    target.check_writable()
    merged = Merged({source.path: 0 for source in sources}, sorted(grids))
    for source in sources:
        new = [run for run in source.runs.values() if not _is_there(run, target.run(run.name))]
        map_threads(lambda run: _write(run, target.run(run.name)), new)
        merged.imported[source.path] += len(new)
    for grid in grids.values():
        write_record(target.grid_path(grid["name"], grid["scale"]), grid)
    names = {name for source in sources for name in source.runs}
    merged.without_weights = sum(f.done() and not f.has_weights() for f in map(target.run, names))
    return merged


# what comes in


def _read(path: Path) -> Source:
    if is_published(path):
        grid, runs = read_published(path)
        curves = published_curves(path)
        return Source(
            path, {name: _of_copy(run, path, curves.get(name)) for name, run in runs.items() if run.spec}, [grid]
        )
    store = Store(path)
    if not (store.runs.is_dir() or holds_results(path)):
        copies = [str(copy) for copy in published_folders(path) if not is_of_another_version(copy)]
        hint = f" Name the copies in it: {' '.join(copies)}." if copies else _neighbor(path)
        raise UserError(
            f"{path}: neither a results folder (with runs/) nor a published copy (with records.jsonl).{hint}"
        )
    grids = []
    for _, record in store.grids():
        if isinstance(record, UserError):
            raise record
        grids.append(record)
    planned = (folder for folder in store.all_runs() if (folder.path / "spec.json").exists())
    return Source(path, {folder.name: _of_folder(folder, path) for folder in planned}, grids)


def _neighbor(path: Path) -> str:
    return "" if path.exists() else nearest(path.name, [other.name for other in path.parent.glob("*")])


def _of_copy(run: PublishedRun, source: Path, curve: str | None) -> Incoming:
    attempts = {f"attempts/{file}": facts for file, facts in run.attempts.items()}
    return Incoming(run.run, source, run.spec or {}, run.result if run.state == "done" else None, run.cost, attempts,
                    lambda: curve)  # fmt: skip


def _of_folder(folder: RunFolder, source: Path) -> Incoming:
    result = folder.result() if folder.done() else None
    weights = folder.recorded_weights(result) if result else None
    if weights and result and sha256_file(weights) != result["weights_sha256"]:
        raise UserError(f"{weights}: sha256 mismatch with result.json. Move {folder.path} away to recompute it.")
    files = [file for kind in ("attempts", "failures") for file in sorted((folder.path / kind).glob("*.json"))]
    notes = {f"{file.parent.name}/{file.name}": read_record(file) for file in files}
    curve = folder.path / "curve.csv"
    return Incoming(folder.name, source, folder.spec(), result, folder.cost(), notes,
                    lambda: curve.read_bytes() if curve.exists() else None, folder)  # fmt: skip


# what contradicts


def _check_one_result_each(sources: list[Source], target: Store) -> None:
    """A run has one result, wherever it was computed, though another version may have recorded more of it."""
    known: dict[str, tuple[Path, dict[str, Any]]] = {}
    conflicts = []
    for run in _finished(sources):
        own = target.run(run.name)
        if run.name not in known and own.done():
            known[run.name] = own.path, own.result()
        elif not own.done() and own.is_held():
            raise UserError(f"{own.path}: a live process computes it now. Merge when it has ended.")
        where, result = known.setdefault(run.name, (run.source, run.result or {}))
        if found := _contradiction(result, run.result or {}):
            key, one, other = found
            conflicts.append(f"{run.name}: {key} is {_short(one)} in {where}, {_short(other)} in {run.source}")
    _refuse(conflicts, "have different results")


def _check_parents(sources: list[Source], target: Store) -> None:
    """The weights that a result was computed from are those of the parent, where that comes from another place."""
    results: dict[str, tuple[Path, dict[str, Any]]] = {}
    for run in _finished(sources):
        own = target.run(run.name)
        results.setdefault(run.name, (own.path, own.result()) if own.done() else (run.source, run.result or {}))
    conflicts = []
    for name, (source, result) in results.items():
        for used in result.get("parents", {}).values():
            folder = target.run(used["run"])
            where, parent = results.get(used["run"]) or (folder.path, folder.result() if folder.done() else {})
            if (
                where != source
                and parent
                and used.get("weights_sha256", parent.get("weights_sha256")) != parent.get("weights_sha256")
            ):
                conflicts.append(
                    f"{name} of {source} was computed from other weights than {used['run']} of {where} left"
                )
    _refuse(conflicts, "do not fit together")


def _finished(sources: list[Source]) -> Iterator[Incoming]:
    for source in sources:
        yield from (run for run in source.runs.values() if run.result is not None)


def _contradiction(one: Any, other: Any, key: str = "") -> tuple[str, Any, Any] | None:
    """The first key that both have with different values, and these."""
    if isinstance(one, dict) and isinstance(other, dict):
        both = ((name, f"{key}.{name}".removeprefix(".")) for name in sorted(one.keys() & other.keys()))
        return next(filter(None, (_contradiction(one[name], other[name], place) for name, place in both)), None)
    return None if canonical(one) == canonical(other) else (key, one, other)


def _short(value: Any) -> str:
    text = canonical(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _refuse(conflicts: list[str], why: str) -> None:
    if conflicts:
        more = f"; and {len(conflicts) - SHOWN} more" if len(conflicts) > SHOWN else ""
        raise UserError(f"Nothing was merged: runs {why}. {'; '.join(conflicts[:SHOWN])}{more}. Leave one of the folders out: "
                        "`mimbench report` can show several folders without merging them.")  # fmt: skip


def _grids(sources: list[Source], target: Store) -> dict[str, dict[str, Any]]:
    """The records to write, by name and scale."""
    grids: dict[str, tuple[str, dict[str, Any]]] = {}
    for source in sources:
        for grid in source.grids:
            name, path = f"{grid['name']}.{grid['scale']}", target.grid_path(grid["name"], grid["scale"])
            if name not in grids and path.exists():
                grids[name] = str(path), read_record(path)
            before = grids.get(name)
            grids[name] = (
                (before[0], merge_grids(before, (str(source.path), grid))) if before else (str(source.path), grid)
            )
    return {name: grid for name, (_, grid) in grids.items()}


# what is written


def _is_there(run: Incoming, own: RunFolder) -> bool:
    if own.done():
        return own.has_weights() or run.folder is None or not run.folder.has_weights()
    return run.result is None and (own.path / "spec.json").exists()


def _write(run: Incoming, own: RunFolder) -> None:
    """The result last: with it the run is done. A submission stays behind: its job is in another cluster's queue."""
    was_done = own.done()
    own.create(run.spec)
    if run.folder is not None and run.result is not None:
        _bring_work(run.folder, own)
    if was_done:  # it lacked its weights only
        return
    for place, facts in run.notes.items():
        write_record(own.path / place, facts, once=True)
    if (curve := run.curve()) is not None:
        write_atomically(own.path / "curve.csv", curve)
    if run.cost is not None:
        write_record(own.path / "cost.json", run.cost)
    if run.result is not None:
        write_record(own.path / "result.json", run.result, once=True)


def _bring_work(folder: RunFolder, own: RunFolder) -> None:
    for path in sorted(folder.work.rglob("*")):
        if path.is_file() and path.name not in UNFINISHED and not path.name.endswith(".tmp"):
            _link_or_copy(path, own.work / path.relative_to(folder.work))


def _link_or_copy(path: Path, target: Path) -> None:
    """Weights are replaced, never edited, so that two folders may share one file; logs are appended to."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        if path.suffix != ".pt":
            raise OSError
        os.link(path, temporary)
    except OSError:  # also: another file system
        shutil.copyfile(path, temporary)
    os.replace(temporary, target)
