"""A published copy: the records of a grid as `mimbench publish` writes them, in files that are small enough to commit."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mimbench.errors import UserError
from mimbench.store.files import canonical, read_json
from mimbench.store.records import GRID_FORMAT, read_grid
from mimbench.store.results import run_name

RECORDS, CURVES, GRID = "records.jsonl", "curves.csv", "grid.json"
FIELDS = {"run", "state", "spec", "result", "cost", "attempts"}


@dataclass(frozen=True)
class PublishedRun:
    """One line of records.jsonl."""

    run: str
    state: str
    spec: dict[str, Any] | None
    result: dict[str, Any] | None
    cost: dict[str, Any] | None
    attempts: dict[str, dict[str, Any]]


def is_published(folder: Path) -> bool:
    return (folder / RECORDS).is_file() and (folder / GRID).is_file()


def published_folders(folder: Path) -> list[Path]:
    """It, or those below it."""
    return sorted(path.parent for path in folder.rglob(RECORDS) if is_published(path.parent))


def is_of_another_version(folder: Path) -> bool:
    return read_json(folder / GRID).get("format") != GRID_FORMAT


def read_published(folder: Path) -> tuple[dict[str, Any], dict[str, PublishedRun]]:
    """The grid's record and its runs by name; the first line that is wrong raises."""
    runs = {}
    for run in each_run(folder):
        if isinstance(run, UserError):
            raise run
        runs[run.run] = run
    return read_grid(folder / GRID), runs


def each_run(folder: Path) -> Iterator[PublishedRun | UserError]:
    """Each line checked: the name of a run is the hash of its spec. In place of a line that is wrong, the error."""
    if is_of_another_version(folder):
        raise UserError(
            f"{folder}: its records were written by another version of mimbench, which this one does not read."
        )
    seen = set()
    for line in _lines(folder / RECORDS):
        try:
            run = _checked(line)
            if run.run in seen:
                raise UserError(f"{line[0]}: {run.run}: a second line for this run.")
            seen.add(run.run)
            yield run
        except UserError as error:
            yield error


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Each line with its place."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}).") from error
    for number, line in enumerate(text.splitlines(), 1):
        yield f"{path}:{number}", line


def _checked(line: tuple[str, str]) -> PublishedRun:
    place, text = line
    try:
        record = json.loads(text)
        canonical(record)  # refuses NaN, which Python reads
        run = PublishedRun(**record)
        if run.spec is not None and run_name(run.spec) != run.run:
            raise UserError(f"{place}: {run.run}: its spec does not match the hash in its name.")
    except (ValueError, TypeError, KeyError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"{place}: not the record of a run: a line has the fields {', '.join(sorted(FIELDS))}."
        ) from error
    return run


def published_curves(folder: Path) -> dict[str, str]:
    """By run, the text of its curve.csv: thinned, with the columns that it fills."""
    path = folder / CURVES
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as stream:
        columns, *lines = list(csv.reader(stream)) or [[]]
    of_run: dict[str, list[list[str]]] = {}
    for run, *values in filter(None, lines):
        of_run.setdefault(run, []).append(values)
    return {run: _curve(columns[1:], values) for run, values in of_run.items()}


def _curve(columns: list[str], lines: list[list[str]]) -> str:
    filled = [index for index in range(len(columns)) if any(line[index : index + 1] != [""] for line in lines)]
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerows([[line[index] for index in filled] for line in [columns, *lines]])
    return written.getvalue()
