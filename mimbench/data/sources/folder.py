"""An image folder: train/ and val/ with one folder per class, as torchvision's ImageFolder reads it."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mimbench.config.schema import DataConfig
from mimbench.data.sampling import derive
from mimbench.data.sources.base import DATA_ROOT, HELD_OUT_EVERY, LABELED, Source, folder_of, manifest
from mimbench.data.views import Images
from mimbench.errors import UserError, check_known, unknown

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
Files = list[tuple[Path, str]]  # with the name of the class


class ImageFolder(Source):
    """Its val/ is our test split; our val split is held out of train/."""

    def facts(self, config: DataConfig) -> dict[str, Any]:
        return {"manifest": self._manifest}

    def counts(self) -> dict[str, int]:
        train, held_out = len(self._train), -(-len(self._train) // HELD_OUT_EVERY)
        return {"train": train, "labeled": train - held_out, "val": held_out, "test": len(self._test)}

    def classes(self) -> int:
        return len(self._classes)

    def load(self, config: DataConfig, split: str, cache: Path) -> Images:
        files = self._test if split == "test" else self._train
        if split in ("labeled", "val"):
            files = [f for i, f in enumerate(files) if (i % HELD_OUT_EVERY == 0) == (split == "val")]
        # on disk one class follows the other: `head` must not take the first classes only
        order = np.random.default_rng(derive("folder", split)).permutation(len(files))
        files = [files[i] for i in order]
        labels = np.array([self._classes[name] for _, name in files], np.int64)
        return Images([path for path, _ in files], labels, len(self._classes), config)

    @cached_property
    def _folder(self) -> Path:
        folder = folder_of(self.name)
        root = folder.parent
        if not folder.is_dir():
            present = [p.name for p in root.iterdir() if p.is_dir()] if root.is_dir() else []
            raise unknown(f"data.name ({DATA_ROOT}={root})", "data set", self.name, ["shapes", *present])
        if not (folder / "train").is_dir() or not (folder / "val").is_dir():
            raise self._lacks(*LABELED)
        return folder

    @cached_property
    def _train(self) -> Files:
        return _files(self._folder / "train")

    @cached_property
    def _test(self) -> Files:
        found = _files(self._folder / "val")
        for path, name in found:
            check_known(f"{path}: there are no training images of its class", "class", name, self._classes)
        return found

    @cached_property
    def _classes(self) -> dict[str, int]:
        names = sorted({name for _, name in self._train})
        return {name: label for label, name in enumerate(names)}

    @cached_property
    def _manifest(self) -> str:
        return manifest(self._folder, (path for path, _ in (*self._train, *self._test)))


def _files(folder: Path) -> Files:
    found = []
    for group in sorted(p for p in folder.iterdir() if p.is_dir()):
        found += [(p, group.name) for p in sorted(group.rglob("*")) if p.suffix.lower() in SUFFIXES]
    if not found:
        raise UserError(f"{folder}: no images in class folders.")
    return found
