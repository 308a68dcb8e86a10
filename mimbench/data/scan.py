"""Which files of a data set cannot be decoded: found out once per results folder, before anything is indexed.

It costs one decoding of every file (at an eighth of the size where JPEG allows it), shared by all runs.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mimbench.data.decoding import Picture
from mimbench.errors import UserError
from mimbench.store.files import make_folder_once, read_json

CHUNK, MANY = 4096, 10_000


def unreadable_files(root: Path, files: Sequence[Path], cache: Path, manifest: str) -> dict[str, str]:
    """Name below `root` -> why it cannot be read."""

    def fill(folder: Path) -> None:
        if len(files) > MANY:
            print(f"{root}: decoding {len(files)} images, once, to find unreadable ones", file=sys.stderr)
        found = {str(path.relative_to(root)): why for path, why in _failures(files)}
        (folder / "unreadable.json").write_text(json.dumps(found, indent=1))

    target = cache / "scans" / manifest
    with _one_at_a_time(target):
        return {
            str(name): str(why) for name, why in read_json(make_folder_once(target, fill) / "unreadable.json").items()
        }


def _failures(files: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # Pillow decodes without holding the interpreter
        for start in range(0, len(files), CHUNK):
            chunk = files[start : start + CHUNK]
            yield from ((path, why) for path, why in zip(chunk, pool.map(_failure, chunk), strict=True) if why)


def _failure(path: Path) -> str | None:
    try:
        Picture(path).pixels(least=(1, 1))
    except UserError as error:
        return str(error).removeprefix(f"{path}: ")
    return None


@contextlib.contextmanager
def _one_at_a_time(target: Path) -> Iterator[None]:
    """Processes of one machine wait for the first, instead of all decoding the same."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / f".{target.name}.lock").open("w") as lock:
        with contextlib.suppress(OSError):  # a file system without locks: they all decode, and the first wins
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
