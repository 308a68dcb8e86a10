"""Pictures of what a row does, where `mimbench show` left them beside its report."""

from __future__ import annotations

import glob
from dataclasses import dataclass
from pathlib import Path

from mimbench.report.collect import Grid
from mimbench.report.shown import FOLDER, stem


@dataclass(frozen=True)
class Picture:
    caption: str
    png: bytes


def pictures(grid: Grid, folder: Path) -> dict[str, list[Picture]]:
    """By row: `pictures/<row>.<what>.png` in the report's folder, in the order of their names."""
    found = {}
    for row in grid.rows:
        paths = sorted((folder / FOLDER).glob(f"{glob.escape(stem(row.name))}.*.png"))
        # a further point: of a row whose name begins like this one's
        own = [path for path in paths if "." not in _what(path, row.name)]
        if own:
            found[row.name] = [Picture(_what(path, row.name).replace("_", " "), path.read_bytes()) for path in own]
    return found


def _what(path: Path, row: str) -> str:
    return path.stem.removeprefix(f"{stem(row)}.")
