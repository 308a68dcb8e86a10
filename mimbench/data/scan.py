"""Which files of a data set cannot be used: found out once per results folder, before anything is indexed.

It costs one decoding of every file (at an eighth of the size where JPEG allows it), shared by all runs.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mimbench.data.decoding import Picture, Unreadable
from mimbench.errors import UserError
from mimbench.store.files import one_at_a_time
from mimbench.store.records import read_record, write_record

CHUNK, MANY = 4096, 10_000
Check = Callable[[Path], str | None]  # why a file cannot be used


def unreadable_files(root: Path, files: Sequence[Path], cache: Path, *, again: bool = False) -> dict[str, str]:
    """Name below `root` -> why it cannot be decoded."""
    return faults(root, files, cache, "unreadable", _failure, again=again)


def faults(
    root: Path, files: Sequence[Path], cache: Path, what: str, check: Check, *, again: bool = False
) -> dict[str, str]:
    """Name below `root` -> what `check` says of it. Remembered while sizes and times stay; `again`: checked anew."""
    target = cache / "scans" / f"{_state(root, files)}-{what}.json"
    with one_at_a_time(target):  # instead of all decoding the same
        if again or (known := _remembered(target)) is None:
            if len(files) > MANY:
                print(f"{root}: reading {len(files)} files, once, to find damaged ones", file=sys.stderr)
            known = {str(path.relative_to(root)): why for path, why in _found(files, check)}
            write_record(target, {"files": known})
        return known


def _remembered(target: Path) -> dict[str, str] | None:
    try:
        return dict(read_record(target)["files"]) if target.is_file() else None
    except (UserError, KeyError):  # damaged, or of another version
        return None


def _state(root: Path, files: Sequence[Path]) -> str:
    state = hashlib.sha256()
    for path in files:
        facts = path.stat()
        state.update(f"{path.relative_to(root)} {facts.st_size} {facts.st_mtime_ns}\n".encode())
    return state.hexdigest()[:16]


def _found(files: Sequence[Path], check: Check) -> Iterator[tuple[Path, str]]:
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # Pillow decodes without holding the interpreter
        for start in range(0, len(files), CHUNK):
            chunk = files[start : start + CHUNK]
            yield from ((path, why) for path, why in zip(chunk, pool.map(check, chunk), strict=True) if why)


def _failure(path: Path) -> str | None:
    if not path.is_file():  # a pipe would be waited for
        return "not a file."
    try:
        Picture(path).pixels(least=(1, 1))
    except Unreadable as error:
        return str(error).removeprefix(f"{path}: ")
    return None
