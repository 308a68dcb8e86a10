"""CIFAR-10 and CIFAR-100 as Toronto distributes them for Python: pickles, read without running any code of theirs."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mimbench.data.sources.places import line_of, manifest
from mimbench.data.sources.splits import Content, Listed, Part
from mimbench.errors import UserError

SIDE = 32
ALLOWED = {  # what these files are made of: arrays
    ("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode"),
}  # fmt: skip


class Version(NamedTuple):
    folder: str
    train: tuple[str, ...]
    test: str
    names: str  # file with the names of the classes
    names_key: str
    labels_key: str


VERSIONS = (
    Version("cifar-10-batches-py", tuple(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta",
            "label_names", "labels"),
    Version("cifar-100-python", ("train",), "test", "meta", "fine_label_names", "fine_labels"),
)  # fmt: skip


def find(root: Path) -> tuple[Path, Version] | None:
    """The folder with the pickles: `root` itself or one in it."""
    for version in VERSIONS:
        for folder in (root, root / version.folder):
            if (folder / version.names).is_file() and (folder / version.test).is_file():
                return folder, version
    return None


class Cifar(Listed):
    def read(self, root: Path) -> Content:
        found = find(root)
        assert found is not None  # else the data set is a folder of images
        folder, version = found
        files = [folder / name for name in (*version.train, version.test, version.names)]
        names = _load(folder / version.names).get(version.names_key)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UserError(f"{folder / version.names}: no list of names under '{version.names_key}'.")
        parts = [_part(folder / name, version, len(names)) for name in version.train]
        train = Part(np.concatenate([p.images for p in parts]), np.concatenate([p.labels for p in parts]))
        return Content(train, _part(folder / version.test, version, len(names)), tuple(names),
                       manifest(line_of(folder, path) for path in files), folder)  # fmt: skip


def _part(path: Path, version: Version, classes: int) -> Part:
    batch = _load(path)
    data, labels = batch.get("data"), batch.get(version.labels_key)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (3 * SIDE * SIDE,):
        raise UserError(f"{path}: no images of {SIDE} x {SIDE} pixels under 'data'.")
    if not isinstance(labels, list) or len(labels) != len(data) or not all(0 <= label < classes for label in labels):
        raise UserError(f"{path}: no labels from 0 to {classes - 1}, one per image, under '{version.labels_key}'.")
    images = data.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    return Part(np.ascontiguousarray(images), np.array(labels, np.int64))


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no part of CIFAR")
        return super().find_class(module, name)


def _load(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            found = _Unpickler(stream, encoding="latin1").load()
    except Exception as error:  # damaged pickles raise almost anything
        raise UserError(f"{path}: not readable as a file of CIFAR ({error}).") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: not readable as a file of CIFAR (no dictionary).")
    return found
