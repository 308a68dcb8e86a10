"""Whether records are what they claim to be, and tables follow from them: everything is derived again, nothing is trusted."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mimbench.errors import UserError
from mimbench.kinds import PROTOCOLS
from mimbench.report.analysis import analysis_of
from mimbench.report.build import table_files
from mimbench.report.collect import Grid, read_grid, read_published_grid
from mimbench.report.notices import is_stale
from mimbench.report.schema import schema_problems
from mimbench.report.table import tabulate
from mimbench.store.files import fingerprint, read_json, sha256_file
from mimbench.store.published import GRID, RECORDS, each_run, is_of_another_version, is_published, published_folders
from mimbench.store.records import read_record
from mimbench.store.results import RunFolder, Store

RECORDED = ("result.json", "cost.json", "attempts/*.json", "failures/*.json", "submissions/*.json")
MALFORMED = (KeyError, TypeError, ValueError, AttributeError, StopIteration)  # what a record of another shape raises


@dataclass
class Verification:
    problems: list[str] = field(default_factory=list)  # each with its file
    notes: list[str] = field(default_factory=list)  # what was not checked, and why
    runs: int = 0
    weights: int = 0
    tables: int = 0


@dataclass(frozen=True)
class Checked:
    """What is known of a run."""

    place: str  # of its record
    spec: dict[str, Any] | None
    result: dict[str, Any] | None


def verify(path: Path) -> Verification:
    """A results folder with the published copies in it, one copy, or a folder of copies."""
    found, store = Verification(), Store(path)
    is_results = store.runs.is_dir() or any(store.grids())
    copies = published_folders(path / "published" if is_results else path)
    if not (is_results or copies):
        raise UserError(f"{path}: no results there: neither runs/ nor a published copy ({RECORDS} and {GRID}).")
    if is_results:
        _verify_folder(store, found)
    for copy in [path] if is_published(path) else copies:
        _verify_copy(copy, found)
    return found


def _verify_folder(store: Store, found: Verification) -> None:
    runs = {folder.name: _read(folder, found) for folder in store.all_runs()}
    found.runs += len(runs)
    for name, run in runs.items():
        found.problems += [f"{run.place}: {problem}" for problem in _run_problems(name, run, runs)]
    for path, record in store.grids():
        if isinstance(record, UserError):
            found.problems.append(str(record))
        else:
            _verify_grid(path, record, runs, found)
            name = record.get("name", "")
            scale = path.stem.removeprefix(f"{name}.")
            if (report := store.report_folder(name, scale)).is_dir():
                _verify_tables(report, functools.partial(read_grid, store, name, scale), found)


def _read(folder: RunFolder, found: Verification) -> Checked:
    """Each file against its digest, the spec against the folder's name, the weights against the result."""
    contents: dict[str, dict[str, Any]] = {}
    for path in sorted(path for pattern in RECORDED for path in folder.path.glob(pattern)):
        try:
            contents[path.name] = read_record(path)
        except UserError as error:
            found.problems.append(str(error))
    spec, result = None, contents.get("result.json")
    try:
        spec = folder.spec()
    except UserError as error:
        found.problems.append(str(error))
    weights = folder.recorded_weights(result) if result else None
    if result and weights:
        found.weights += 1
        if sha256_file(weights) != result["weights_sha256"]:
            found.problems.append(f"{weights}: sha256 mismatch with result.json")
    return Checked(str(folder.path), spec, result)


def _verify_copy(copy: Path, found: Verification) -> None:
    try:
        if is_of_another_version(copy):
            version = "0.1" if read_json(copy / GRID).get("format") is None else "another version"
            found.notes.append(f"{copy}: not checked: written by {version}")
            return
        record = read_record(copy / GRID)
        lines = list(each_run(copy))
    except UserError as error:
        found.problems.append(str(error))
        return
    before = len(found.problems)
    found.problems += [str(line) for line in lines if isinstance(line, UserError)]
    runs = {line.run: Checked(f"{copy / RECORDS}: {line.run}", line.spec, line.result) for line in lines
            if not isinstance(line, UserError)}  # fmt: skip
    found.runs += len(runs)
    for name, run in runs.items():
        found.problems += [f"{run.place}: {problem}" for problem in _run_problems(name, run, runs)]
    _verify_grid(copy / GRID, record, runs, found)
    if len(found.problems) == before:  # tables of wrong records would only say it again
        _verify_tables(copy, functools.partial(read_published_grid, copy), found)


def _run_problems(name: str, run: Checked, runs: dict[str, Checked]) -> Iterator[str]:
    """What one run's record says of itself, and of its parents."""
    if run.spec is None:
        return
    parents = run.spec.get("parents", {})
    for role, parent in parents.items():
        if parent not in runs:
            yield f"its parent {parent} ({role}) is not there"
    if run.result is None:
        return
    if problems := schema_problems(name.rpartition("-")[0], run.spec, run.result):
        yield from problems
        return
    if missing := sorted(parents.keys() - run.result.get("parents", {}).keys()):
        yield f"the result does not say what it took from its parents ({', '.join(missing)})"
    for role, used in run.result.get("parents", {}).items():
        if role in parents and parents[role] != used["run"]:
            yield f"the result names {used['run']} as its {role}, the spec {parents[role]}"
        parent = runs.get(used["run"])
        if parent is not None and parent.result is not None and is_stale(used, parent.result):
            yield f"stale: computed from something else than its parent {used['run']} left"
    if run.spec["kind"] in PROTOCOLS:
        protocol = dict(run.result["protocol"])
        if (claimed := protocol.pop("fingerprint")) != (derived := fingerprint(protocol)):
            yield f"protocol fingerprint {claimed}, but its settings give {derived}"


def _verify_grid(path: Path, record: dict[str, Any], runs: dict[str, Checked], found: Verification) -> None:
    try:
        rows = {row["name"] for row in record["rows"]}
        for row in record["rows"]:
            if row["reference"] not in rows:
                found.problems.append(f"{path}: row '{row['name']}': its reference '{row['reference']}' is no row")
            for seed, of_seed in row["runs"].items():
                for kind, run in of_seed.items():
                    if run not in runs or run.rpartition("-")[0] != kind:
                        found.problems.append(f"{path}: row '{row['name']}', seed {seed}: {kind} {run} is not there")
    except MALFORMED as error:
        found.problems.append(f"{path}: not the record of a grid ({type(error).__name__}: {error})")


def _verify_tables(folder: Path, read: Callable[[], Grid], found: Verification) -> None:
    """Byte for byte. Pages and pictures are not checked: they depend on the versions that draw them."""
    try:
        analysis = analysis_of(read())
        files = table_files(analysis, tabulate(analysis))
    except UserError as error:
        found.problems.append(str(error))
        return
    except MALFORMED as error:
        found.problems.append(f"{folder}: no table follows from its records ({type(error).__name__}: {error})")
        return
    found.tables += len(files)
    for name, text in files.items():
        path = folder / name
        if not path.is_file():
            found.problems.append(f"{path}: missing")
        elif path.read_bytes() != text.encode():
            found.problems.append(f"{path}: does not follow from the records")
