"""A packed data set, as `mimbench data pack` writes it: images of one shorter side, as bytes in a few large files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache as remembered
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mimbench.config.schema import DataConfig
from mimbench.data.scan import faults
from mimbench.data.sources.base import some
from mimbench.data.sources.places import existing, manifest
from mimbench.data.sources.splits import Content, Listed, Part
from mimbench.data.views import Images
from mimbench.errors import UserError
from mimbench.store.files import sha256_file

FORMAT = 1
DESCRIPTION = "pack.json"


class Pack(Listed):
    """Not changed after it was written: its fingerprint is that of its shards' digests."""

    def read(self, root: Path) -> Content:
        described = self.description
        test = described["parts"].get("test")
        digests = [f"{name} {digest}" for name, digest in self.digests.items()]
        return Content(_part(root, described["parts"]["train"]), None if test is None else _part(root, test),
                       tuple(described["classes"]), manifest(digests), root)  # fmt: skip

    @cached_property
    def description(self) -> dict[str, Any]:
        return _described(existing(self.name) / DESCRIPTION)

    @cached_property
    def digests(self) -> dict[str, str]:
        parts = self.description["parts"].values()
        return {file["name"]: file["sha256"] for part in parts for file in (*part["shards"], *part["tables"])}

    def damaged(self, cache: Path, *, again: bool = False) -> list[str]:
        """Files whose bytes are no longer those that were written."""
        root = self.content.root
        changed = lambda path: None if sha256_file(path) == self.digests[path.name] else "other bytes"
        return sorted(faults(root, [root / name for name in self.digests], cache, "bytes", changed, again=again))

    def load(self, config: DataConfig, split: str, cache: Path) -> Images:
        if changed := self.damaged(cache):
            raise UserError(
                f"{self.content.root / changed[0]}: not the bytes that were written. Pack the data set again."
            )
        return super().load(config, split, cache)

    def warnings(self) -> list[str]:
        return [*super().warnings(), *(f"{self.name}: {sentence}" for sentence in self._lost_at_packing())]

    def flags(self, splits: Sequence[str], cache: Path) -> list[str]:
        return [*self._lost_at_packing(), *self.of_one_class(splits, cache)]

    def _lost_at_packing(self) -> list[str]:
        lost = sorted(self.description["unreadable"])
        return [f"{len(lost)} unreadable images were left out when it was packed: {some(lost)}"] if lost else []


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


@remembered
def _mapped(path: Path) -> np.ndarray:
    return np.memmap(path, np.uint8, "r")


def _part(root: Path, part: dict[str, Any]) -> Part:
    for file in part["shards"]:
        path = root / file["name"]
        if not path.is_file() or path.stat().st_size != file["bytes"]:
            raise UserError(f"{path}: missing or not {file['bytes']} bytes long. Pack the data set again.")
    try:
        index, labels = (np.load(root / file["name"]) for file in part["tables"])
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{root}: a table of its images is not readable ({error}). Pack the data set again.") from error
    return Part(Packed(tuple(root / file["name"] for file in part["shards"]), index), labels)


def _described(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != FORMAT:
            raise UserError(f"{path}: format {found['format']}; this version reads {FORMAT}. Pack the data set again.")
        found["parts"]["train"], found["classes"], found["unreadable"]  # all must be there
        for part in found["parts"].values():
            part["tables"], [(file["name"], file["bytes"], file["sha256"]) for file in part["shards"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: not readable as the description of a packed data set ({error}).") from error
    return dict(found)
