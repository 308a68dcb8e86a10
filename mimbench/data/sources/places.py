"""Where data sets lie: a name is a folder under MIMBENCH_DATA, anything that looks like a path is a path."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from mimbench.errors import UserError, nearest, unknown
from mimbench.store.files import fingerprint, is_path
from mimbench.store.results import holds_results

DATA_ROOT = "MIMBENCH_DATA"
SPLITS_VERSION = 3  # raised when the files of a folder are split in another way
BUILT_IN = ("shapes", "shapes-trial")
WHERE = {  # data sets with a layout of their own: what to put into the folder of that name
    "imagenet": "train/<wnid>/*.JPEG and val/<wnid>/*.JPEG; a flat val/ needs ILSVRC2012_devkit_t12/ or LOC_val_solution.csv "
                "beside it (from https://image-net.org, after agreeing to its terms)",
    "cifar10": "cifar-10-batches-py/ (the official Python version), or train/ and test/ with one folder per class",
    "cifar100": "cifar-100-python/ (the official Python version), or train/ and test/ with one folder per class",
    "tiny_imagenet": "wnids.txt, train/<wnid>/images/ and val/ with val_annotations.txt (tiny-imagenet-200), or train/ and "
                     "val/ with one folder per class",
    "ade20k": "images/ and annotations/, each with training/ and validation/ (ADEChallengeData2016)",
}  # fmt: skip


def place_of(name: str) -> str:
    """What a run, which may start in another folder, finds it by."""
    return str(folder_of(name).absolute()) if is_path(name) else name


def folder_of(name: str) -> Path:
    """Whether or not it is there."""
    if is_path(name):
        return Path(name).expanduser()
    root = os.environ.get(DATA_ROOT)
    if not root:
        raise UserError(
            f"data set '{name}' is not built in (built-in: shapes).{nearest(name, ['shapes'])} "
            f"For a folder of images set {DATA_ROOT} to the dataset root, or give a path such as ./{name}."
        )
    return Path(root) / name


def existing(name: str, key: str = "data.name") -> Path:
    """Its folder, or an error that says what to put where. `key` named it."""
    folder = folder_of(name)
    if folder.is_dir():
        return folder
    if is_path(name):
        raise UserError(f"{key}: no folder {name}.")
    if name in WHERE:
        raise UserError(f"{key}: no folder {folder}. Try `mimbench data get {name}`, or put there {WHERE[name]}.")
    present = [p.name for p in folder.parent.iterdir() if _may_hold_data(p)] if folder.parent.is_dir() else []
    raise unknown(f"{key} ({DATA_ROOT}={folder.parent})", "data set", name, ["shapes", *present])


def _may_hold_data(path: Path) -> bool:
    """Not hidden, not results of ours, not empty: what to offer for a name that is not there."""
    if path.name.startswith(".") or not path.is_dir() or holds_results(path):
        return False
    return any(not inner.name.startswith(".") for inner in path.iterdir())


def manifest(lines: Iterable[str]) -> str:
    """A fingerprint of what lies in a folder: names and sizes distinguish two versions of a data set, and are cheap."""
    text = "\n".join((f"splits {SPLITS_VERSION}", *lines))
    return fingerprint(hashlib.sha256(text.encode()).hexdigest())


def line_of(root: Path, path: Path, *facts: str) -> str:
    """Of a manifest: a file's name and size, and what else matters of it."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UserError(f"{os.fsencode(path)!r}: the name is not UTF-8. Rename the file.") from None
    try:
        return " ".join((*facts, str(path.relative_to(root)), str(path.stat().st_size)))
    except OSError as error:  # a dangling link, a folder without rights
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from error
