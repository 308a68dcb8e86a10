"""Folders that can be made again: each file with its sha256, checked before it is read."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from mimbench.errors import UserError
from mimbench.store.files import make_folder_once, one_at_a_time, sha256_file
from mimbench.store.records import read_record, write_record

SUMS = "sha256.json"


def cached_folder(target: Path, fill: Callable[[Path], None], names: Iterable[str] | None = None) -> Path:
    """The folder that `fill` makes; again, if one of the files `names` (None: any file) is not as it was made."""

    def fill_and_sum(folder: Path) -> None:
        fill(folder)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        write_record(folder / SUMS, {"files": {str(path.relative_to(folder)): sha256_file(path) for path in files}})

    with one_at_a_time(target):
        make_folder_once(target, fill_and_sum)
        if damaged := _damaged(target, names):
            print(f"{target}: {damaged}; made again", file=sys.stderr)
            shutil.rmtree(target)  # whoever has a file of it open can still read it
            make_folder_once(target, fill_and_sum)
    return target


def _damaged(folder: Path, names: Iterable[str] | None) -> str | None:
    """Which file is not as it was made."""
    try:
        sums = read_record(folder / SUMS)["files"]
        return next((f"{name} is damaged" for name in names or sums if sha256_file(folder / name) != sums[name]), None)
    except (UserError, OSError, KeyError) as error:
        return f"not whole ({error})"
