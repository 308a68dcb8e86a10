"""Files on disk -> what a labeled data set consists of."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np

from mimbench.data.decoding import SUFFIXES
from mimbench.data.sources.places import line_of, manifest
from mimbench.data.sources.splits import Content, Part
from mimbench.errors import UserError, check_known
from mimbench.store.results import holds_results

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
    return [Path(entry.path) for entry in _entries(folder) if is_image(entry.name) and entry.is_file()]


def class_folders(folder: Path) -> Files:
    """Every image below a subfolder, with the subfolder's name; subfolders without images are none."""
    groups = [entry for entry in _entries(folder) if _is_folder(entry)]
    return [
        (path, group.name)
        for group in groups
        for path in sorted(found for found in files_below(Path(group.path), _lineage(folder)) if is_image(found.name))
    ]


def files_below(folder: Path, above: frozenset[str] = frozenset()) -> Iterator[Path]:
    """Links are followed, but for those that lead back to where the walk came from, `above`."""
    above = above or _lineage(folder.resolve().parent)
    here = os.path.realpath(folder)
    if here in above or holds_results(folder):
        return
    for entry in _entries(folder):
        if _is_folder(entry):
            yield from files_below(Path(entry.path), above | {here})
        else:
            yield Path(entry.path)


def subfolders(folder: Path) -> dict[str, Path]:
    """By their names in lower case."""
    return {entry.name.lower(): Path(entry.path) for entry in _entries(folder) if _is_folder(entry)}


def _lineage(folder: Path) -> frozenset[str]:
    """The folder and all that it lies in, without links."""
    place = folder.resolve()
    return frozenset(map(str, (place, *place.parents)))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        return sorted((e for e in os.scandir(folder) if not e.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        _cannot_list(error)


def is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(".")


def _cannot_list(error: OSError) -> NoReturn:
    raise UserError(f"{error.filename}: cannot be listed ({error.strerror}).")
