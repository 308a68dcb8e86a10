"""What the readers of a record take for granted of it; a file that is otherwise is named, with what is wrong in it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import NoneType
from typing import Any, get_args

from mimbench.errors import UserError
from mimbench.store.files import read_json

RUN_NAME = re.compile(r"^[a-z_]+-[0-9a-f]{12}$")
LARGEST = 1e100  # squares of larger numbers, and their sums, overflow

Fields = dict[str, Any]  # name -> the type of its value; with `| None` it may be missing
NUMBER = int | float
WORDS = {str: "text", int: "a number", float: "a number", list: "a list", dict: "an object"}

RESULT: Fields = {
    "metric": str | None, "metrics": dict | None, "protocol": dict | None, "data": dict | None, "flags": list | None,
    "values": dict | None, "parents": dict | None,
}  # fmt: skip
COST: Fields = dict.fromkeys(("seconds", "images", "world", "peak_memory_bytes", "energy_joules"), NUMBER | None)
ATTEMPT: Fields = {"git": dict | None, "versions": dict | None, "world": NUMBER | None}
PROGRESS: Fields = dict.fromkeys(("step", "steps", "steps_per_second", "gpu_memory_bytes"), NUMBER | None)
ELAPSED: Fields = {"seconds": NUMBER}
GRID: Fields = {
    "name": str, "scale": str, "seeds": list, "columns": list, "rows": list, "title": str | None, "note": str | None,
    "config": str | None, "base": str | None, "base_label": str | None, "primary": dict | None,
}  # fmt: skip
COLUMN: Fields = {
    "protocol": str, "metric": str, "label": str | None, "unit": str | None, "fingerprint": str | None,
}  # fmt: skip
ROW: Fields = {
    "name": str, "runs": dict, "label": str | None, "description": str | None, "paper": dict | None,
    "reference": str | None,
}  # fmt: skip
PRIMARY: Fields = {"row": str, "protocol": str}


def is_number(value: Any) -> bool:
    """Neither a bool, nor what no mean can be taken of."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def read_record(path: Path, fields: Fields) -> dict[str, Any]:
    """The object in a file, whose known fields are of their types."""
    record = read_json(path)
    if wrong := _wrong(record, fields):
        raise UserError(f"{path}: {wrong}. Move it away.")
    return record


def read_grid(path: Path) -> dict[str, Any]:
    """A grid's record, down to the names of its runs."""
    record = read_json(path)
    if wrong := _wrong(record, GRID) or _wrong_inside(record):
        raise UserError(f"{path}: is no grid's record ({wrong}). Move it away.")
    return record


def _wrong_inside(grid: dict[str, Any]) -> str:
    problems = [
        *(_wrong(column, COLUMN, f"columns.{index}.") for index, column in enumerate(grid["columns"])),
        *(_wrong(row, ROW, f"rows.{index}.") or _wrong_runs(row, index) for index, row in enumerate(grid["rows"])),
        _wrong(grid["primary"], PRIMARY, "primary.") if grid.get("primary") else "",
        *(f"the seed {_shown(s)}" for s in grid["seeds"] if not isinstance(s, int) or isinstance(s, bool)),
    ]
    return next(filter(None, problems), "")


def _wrong_runs(row: dict[str, Any], index: int) -> str:
    for seed, runs in row["runs"].items():
        if not seed.isdecimal() or not isinstance(runs, dict):
            return f"rows.{index}.runs.{seed} names no runs of a seed"
        for kind, name in runs.items():
            if not isinstance(name, str) or not RUN_NAME.match(name) or name.rpartition("-")[0] != kind:
                return f"rows.{index}.runs.{seed}.{kind} is {_shown(name)}, not the name of such a run"
    return ""


def _wrong(record: Any, fields: Fields, place: str = "") -> str:
    """The first field that is not what it should be, in words."""
    if not isinstance(record, dict):
        return f"{place.removesuffix('.')} is {_shown(record)}, not an object"
    for field, kind in fields.items():
        value = record.get(field)
        if not isinstance(value, kind) or (isinstance(value, int | float) and not is_number(value)):
            wanted = dict.fromkeys(WORDS[t] for t in get_args(kind) or (kind,) if t is not NoneType)
            shown = _shown(value) if field in record else "missing"
            return f"{place}{field} is {shown}, not {' or '.join(wanted)}"
    return ""


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:40] + "..."
