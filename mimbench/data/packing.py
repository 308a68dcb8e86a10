"""A resized copy of a data set in a few large files of bytes, which needs no decoding."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mimbench.data.decoding import Unreadable, opened
from mimbench.data.sources.pack import DESCRIPTION, FORMAT, Pack
from mimbench.data.sources.splits import Listed, Part
from mimbench.errors import UserError
from mimbench.store.files import make_folder_once, sha256_file

FILTER = "bicubic"  # of Pillow, with antialiasing
SHARD_BYTES = 2**30
CHUNK, AT_A_TIME = 1024, 4


def pack(source: Listed, size: int, target: Path) -> Path:
    """Every readable image with its shorter side reduced to `size`; smaller ones as they are."""
    if target.exists():
        raise UserError(f"--to {target}: exists already. Name a new folder.")
    content = source.content

    def fill(folder: Path) -> None:
        lost = dict(source.description["unreadable"]) if isinstance(source, Pack) else {}
        parts = {"train": _write(folder, "train", content.train, size, lost, content.root)}
        if content.test is not None:
            parts["test"] = _write(folder, "test", content.test, size, lost, content.root)
        described = {"format": FORMAT, "size": size, "filter": FILTER, "packed_from": content.manifest,
                     "classes": list(content.classes), "unreadable": lost, "parts": parts}  # fmt: skip
        (folder / DESCRIPTION).write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")

    return make_folder_once(target, fill)


def _write(folder: Path, name: str, part: Part, size: int, lost: dict[str, str], root: Path) -> dict[str, Any]:
    shards, rows, labels = _Shards(folder, name), [], []
    for index, image in enumerate(_resized(part, size)):
        if isinstance(image, str):
            lost[str(Path(part.images[index]).relative_to(root))] = image
            continue
        rows.append(shards.append(image))
        labels.append(part.labels[index])
    if not rows:
        raise UserError(f"{root}: no readable image in {name}.")
    np.save(folder / f"{name}-index.npy", np.array(rows, np.int64))
    np.save(folder / f"{name}-labels.npy", np.array(labels, np.int64))
    tables = [_file(folder / f"{name}-{what}.npy") for what in ("index", "labels")]
    return {"images": len(rows), "shards": [_file(path) for path in shards.close()], "tables": tables}


def _resized(part: Part, size: int) -> Iterator[np.ndarray | str]:
    """In order; of an unreadable file the reason."""

    def one(index: int) -> np.ndarray | str:
        try:
            image = opened(part.images[index]).pixels()
        except Unreadable as error:
            return str(error).removeprefix(f"{part.images[index]}: ")
        scale = size / min(image.size)
        if scale < 1:
            sides = (max(size, round(image.width * scale)), max(size, round(image.height * scale)))
            image = image.resize(sides, Image.Resampling.BICUBIC)
        return np.asarray(image)

    with ThreadPoolExecutor(AT_A_TIME) as pool:
        for start in range(0, len(part.labels), CHUNK):
            yield from pool.map(one, range(start, min(start + CHUNK, len(part.labels))))


class _Shards:
    """Files of bytes, a new one after each SHARD_BYTES."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.paths: list[Path] = []
        self.stream: Any = None

    def append(self, image: np.ndarray) -> tuple[int, int, int, int]:
        """Its shard, first byte, height and width."""
        if self.stream is None or self.stream.tell() >= SHARD_BYTES:
            self.close()
            self.paths.append(self.folder / f"{self.name}-{len(self.paths):05d}.bin")
            self.stream = self.paths[-1].open("wb")
        first = self.stream.tell()
        self.stream.write(np.ascontiguousarray(image).data)
        return len(self.paths) - 1, first, image.shape[0], image.shape[1]

    def close(self) -> list[Path]:
        if self.stream is not None:
            self.stream.close()
            self.stream = None
        return self.paths


def _file(path: Path) -> dict[str, Any]:
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": sha256_file(path)}
