"""The contract of a data source."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mimbench.config.schema import DataConfig
from mimbench.data.views import Images, check_available
from mimbench.errors import UserError, nearest
from mimbench.store.files import fingerprint

DATA_ROOT = "MIMBENCH_DATA"
SPLITS_VERSION = 2  # raised when the files of a folder are split in another way
HELD_OUT_EVERY = 20  # where a data set has no val split of its own, every 20th training image is held out for it
LABELED = ("data.name", "train/ and val/ with one folder per class")
SEGMENTED = ("evaluation.segmentation_data", "images/training/ and annotations/training/ (ADE20K layout)")


class Source:
    """A data set. Its splits never depend on a seed.

    train: images for pre-training, their labels unused; labeled and val: to train and to choose hyperparameters in an
    evaluation; test: to measure, once. A subclass overrides what it offers: labeled images, segmentation masks, or both.
    """

    fixed_size = False  # the images for segmentation have the size of the training crops: none has to be cropped

    def __init__(self, name: str) -> None:
        self.name = name

    def facts(self, config: DataConfig) -> dict[str, Any]:
        """What identifies the images, for a run's spec."""
        raise self._lacks(*LABELED)

    def counts(self) -> dict[str, int]:
        """How many images each split has."""
        raise self._lacks(*LABELED)

    def classes(self) -> int:
        """How many classes the labels have."""
        raise self._lacks(*LABELED)

    def load(self, config: DataConfig, split: str, cache: Path) -> Images:
        raise self._lacks(*LABELED)

    def segmentation_facts(self) -> dict[str, Any]:
        """What identifies images and masks, where `facts` does not."""
        raise self._lacks(*SEGMENTED)

    def segmentation_root(self, config: DataConfig, counts: dict[str, int | None], cache: Path) -> Path:
        """A folder in ADE20K's layout."""
        raise self._lacks(*SEGMENTED)

    def segmentation_counts(self) -> dict[str, int]:
        """How many images with masks each split for evaluation has."""
        raise self._lacks(*SEGMENTED)

    def check_counts(self, requested: dict[str, int | None], place: str, *, masks: bool = False) -> None:
        """Fail while planning if more images (with masks) are requested than available."""
        available = self.segmentation_counts() if masks else self.counts()
        for split, count in requested.items():
            check_available(f"{place}: {self.name}/{split}", count, available[split])

    def _lacks(self, key: str, layout: str) -> UserError:
        return UserError(f"{key}: no {layout} in {folder_of(self.name)}; set {DATA_ROOT} to the dataset root.")


def folder_of(name: str) -> Path:
    root = os.environ.get(DATA_ROOT)
    if not root:
        raise UserError(
            f"data set '{name}' is not built in (built-in: shapes).{nearest(name, ['shapes'])} "
            f"For a folder of images set {DATA_ROOT} to the dataset root."
        )
    return Path(root) / name


def manifest(folder: Path, files: Iterable[Path]) -> str:
    """A fingerprint of names and sizes: cheap, and enough to distinguish two versions of a data set."""
    lines = [f"splits {SPLITS_VERSION}", *(f"{p.relative_to(folder)} {p.stat().st_size}" for p in files)]
    return fingerprint(hashlib.sha256("\n".join(lines).encode()).hexdigest())
