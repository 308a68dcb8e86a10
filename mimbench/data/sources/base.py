"""The contract of a data source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mimbench.config.schema import DataConfig
from mimbench.data.sources.places import DATA_ROOT, folder_of
from mimbench.data.views import Images, check_available
from mimbench.errors import UserError
from mimbench.store.files import fingerprint, is_path

SHOWN = 10  # names in one sentence
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

    def place(self) -> str | None:
        """Where a run finds it again: a name, or an absolute path. None: it is built in."""
        return None

    def facts(self, config: DataConfig) -> dict[str, Any]:
        """What identifies the images, for a run's spec: of files their `manifest`, and no name."""
        raise self._lacks(*LABELED)

    def counts(self) -> dict[str, int]:
        """How many images each split has."""
        raise self._lacks(*LABELED)

    def classes(self) -> int:
        """How many classes the labels have; an error if there are no labels."""
        raise self._lacks(*LABELED)

    def load(self, config: DataConfig, split: str, cache: Path) -> Images:
        raise self._lacks(*LABELED)

    def warnings(self) -> list[str]:
        """What a plan should say of it."""
        return []

    def flags(self, splits: Sequence[str], cache: Path) -> list[str]:
        """What the result of a run that used these splits should say of them."""
        return []

    def has_masks(self) -> bool:
        return False

    def left_out(self, splits: Sequence[str], cache: Path) -> list[str]:
        """The files of these splits that cannot be decoded, and are left out."""
        return []

    def segmentation_left_out(self, cache: Path) -> set[Path]:
        """Images that are left out: they or their masks cannot be decoded."""
        return set()

    def segmentation_flags(self, cache: Path) -> list[str]:
        """As `flags`, of images with masks."""
        return []

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
        """Fail while planning if more images (with masks) are requested than available, or there are none."""
        available = self.segmentation_counts() if masks else self.counts()
        for split, count in requested.items():
            check_available(f"{place}: {self.name}/{split}", count, available[split])
            if not available[split]:
                raise UserError(f"{place}: {self.name}/{split}: no images ({_listed(available)}).")

    def check_labels(self, place: str) -> None:
        """Fail while planning if there is nothing to classify."""
        if self.classes() < 2:
            raise UserError(f"{place}: {self.name} has one class; a protocol that reads labels needs at least two.")

    def _lacks(self, key: str, layout: str) -> UserError:
        root = "" if is_path(self.name) else f" Is {DATA_ROOT} set to the dataset root?"
        return UserError(f"{key}: no {layout} in {folder_of(self.name)}.{root}")


def some(names: Sequence[str]) -> str:
    """Not all of a million; then their fingerprint tells whether they are the same."""
    if len(names) <= SHOWN:
        return ", ".join(names)
    return f"{', '.join(names[:SHOWN])} and {len(names) - SHOWN} more (list {fingerprint(list(names))})"


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{split} {count}" for split, count in counts.items())
