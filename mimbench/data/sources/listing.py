"""Files on disk -> what a labeled data set consists of."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np

from mimbench.data.decoding import SUFFIXES
from mimbench.data.sources.places import line_of, manifest
from mimbench.data.sources.splits import Content, Part
from mimbench.errors import UserError, check_known

Files = list[tuple[Path, str]]  # with the name of the class


class Listing(NamedTuple):
    """`test` is None where none is there; `labeled` is False where the classes are meaningless."""

    train: Files
    test: Files | None
    labeled: bool = True


def content_of(root: Path, listing: Listing) -> Content:
    train, test, labeled = listing
    classes = {name: label for label, name in enumerate(sorted({name for _, name in train}))}
    for path, name in test or ():
        check_known(f"{path}: there are no training images of its class", "class", name, classes)
    lines = [
        line_of(root, path, role, name)
        for role, files in (("train", train), ("test", test or ()))
        for path, name in files
    ]
    return Content(
        _part(train, classes), None if test is None else _part(test, classes), tuple(classes) if labeled else (),
        manifest(lines), root,
    )  # fmt: skip


def _part(files: Files, classes: dict[str, int]) -> Part:
    return Part([path for path, _ in files], np.array([classes[name] for _, name in files], np.int64))


def images_in(folder: Path) -> list[Path]:
    """Image files directly in a folder. A folder called x.jpg is none, and what is hidden neither."""
    return [Path(entry.path) for entry in _entries(folder) if _is_image(entry.name) and entry.is_file()]


def images_below(folder: Path) -> list[Path]:
    found = []
    for place, folders, names in os.walk(folder, onerror=_cannot_list):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place, name) for name in names if _is_image(name)]
    return sorted(found)


def class_folders(folder: Path) -> Files:
    """Every image below a subfolder, with the subfolder's name; subfolders without images are none."""
    groups = [entry for entry in _entries(folder) if entry.is_dir()]
    return [(path, group.name) for group in groups for path in images_below(Path(group.path))]


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        return sorted((e for e in os.scandir(folder) if not e.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        _cannot_list(error)


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(".")


def _cannot_list(error: OSError) -> NoReturn:
    raise UserError(f"{error.filename}: cannot be listed ({error.strerror}).")
