"""Records: JSON files that carry the sha256 of their content, so that a damaged or edited one is noticed where it is read."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from mimbench.errors import UserError
from mimbench.store.files import read_json, sha256, write_json

RUN_NAME = re.compile(r"^[a-z_]+-[0-9a-f]{12}$")
DIGEST = "sha256"
GRID_FORMAT = 2  # of a grid's record


def write_record(path: Path, value: dict[str, Any], *, once: bool = False) -> bool:
    return write_json(path, {**value, DIGEST: sha256(value)}, once=once)


def read_record(path: Path) -> dict[str, Any]:
    """The content, checked against its digest."""
    record = read_json(path)
    if record.pop(DIGEST, None) != sha256(record):
        raise UserError(f"{path}: sha256 does not match its content: edited or damaged. Move it away.")
    return record


def read_if_whole(path: Path) -> dict[str, Any] | None:
    """The content of a record that can be made again; None where there is none, or a damaged one, which the log names."""
    if not path.exists():
        return None
    try:
        return read_record(path)
    except UserError:
        print(f"{path}: damaged; made again", file=sys.stderr)
        return None


def read_grid(path: Path) -> dict[str, Any]:
    record = read_record(path)
    if record.get("format") != GRID_FORMAT:
        raise UserError(f"{path}: written by another version of mimbench. Run the grid again to rewrite it.")
    return record
