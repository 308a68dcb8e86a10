"""A packed data set, as `mimbench data pack` writes it: images of one shorter side, as bytes in a few large files."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from mimbench.data.sources.places import manifest
from mimbench.data.sources.splits import Content, Listed, Part
from mimbench.errors import UserError

FORMAT = 1
DESCRIPTION = "pack.json"


class Pack(Listed):
    """Not changed after it was written: its fingerprint is that of its shards' digests."""

    def read(self, root: Path) -> Content:
        described = _described(root / DESCRIPTION)
        test = described["parts"].get("test")
        files = [file for part in described["parts"].values() for file in (*part["shards"], *part["tables"])]
        digests = [f"{file['name']} {file['sha256']}" for file in files]
        return Content(_part(root, described["parts"]["train"]), None if test is None else _part(root, test),
                       tuple(described["classes"]), manifest(digests), root)  # fmt: skip


class Packed:
    """Images of different sizes, (H, W, 3) uint8 each, mapped from the shards."""

    def __init__(self, shards: tuple[Path, ...], table: np.ndarray) -> None:
        self.shards, self.table = shards, table  # (n, 4): shard, first byte, height, width

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Packed(self.shards, self.table[index])
        shard, first, height, width = (int(v) for v in self.table[index])
        return _mapped(self.shards[shard])[first : first + height * width * 3].reshape(height, width, 3)

    def take(self, index: np.ndarray) -> Packed:
        return Packed(self.shards, self.table[index])


@cache
def _mapped(path: Path) -> np.ndarray:
    return np.memmap(path, np.uint8, "r")


def _part(root: Path, part: dict[str, Any]) -> Part:
    for file in part["shards"]:
        path = root / file["name"]
        if not path.is_file() or path.stat().st_size != file["bytes"]:
            raise UserError(f"{path}: missing or not {file['bytes']} bytes long. Pack the data set again.")
    try:
        index, labels = (np.load(root / file["name"]) for file in part["tables"])
    except (OSError, ValueError) as error:
        raise UserError(f"{root}: a table of its images is not readable ({error}). Pack the data set again.") from error
    return Part(Packed(tuple(root / file["name"] for file in part["shards"]), index), labels)


def _described(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != FORMAT:
            raise UserError(f"{path}: format {found['format']}; this version reads {FORMAT}. Pack the data set again.")
        found["parts"]["train"], found["classes"]  # both must be there
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: not readable as the description of a packed data set ({error}).") from error
    return dict(found)
