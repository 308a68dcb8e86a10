"""Pictures of what a row does, where `mimbench show` left them beside its report."""

from __future__ import annotations

import glob
from dataclasses import dataclass
from pathlib import Path

from mimbench.report.collect import Grid


@dataclass(frozen=True)
class Picture:
    caption: str
    png: bytes


def pictures(grid: Grid, folder: Path) -> dict[str, list[Picture]]:
    """By row: `pictures/<row>.<what>.png` in the report's folder, in the order of their names."""
    found = {}
    for row in grid.rows:
        paths = sorted((folder / "pictures").glob(f"{glob.escape(row.name)}.*.png"))
        own = [
            path for path in paths if "." not in _what(path, row.name)
        ]  # else of a row whose name begins like this one's
        if own:
            found[row.name] = [Picture(_what(path, row.name).replace("_", " "), path.read_bytes()) for path in own]
    return found


def _what(path: Path, row: str) -> str:
    return path.stem.removeprefix(f"{row}.")
