"""Sources whose images stand in two lists: to train, and to test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mimbench.config.schema import DataConfig
from mimbench.data.sampling import derive
from mimbench.data.scan import unreadable_files
from mimbench.data.sources.base import HELD_OUT_EVERY, Source, some
from mimbench.data.sources.places import existing, manifest, place_of
from mimbench.data.views import Images
from mimbench.errors import UserError

TEST_EVERY = 5  # where a labeled data set has no test images, every 5th image of a class is held out for that
TEST_RULE = f"test: every {TEST_EVERY}th image of each class"  # of a manifest, so that another rule gives other runs
FEW = 50  # test images
SPLITS = ("train", "labeled", "val", "test")


@dataclass(frozen=True)
class Part:
    images: Any  # paths, arrays, or one array of all
    labels: np.ndarray


@dataclass(frozen=True)
class Content:
    train: Part
    test: Part | None  # None: held out of `train`
    classes: tuple[str, ...]  # empty: without labels
    manifest: str
    root: Path


class Listed(Source):
    """Our test split is the data set's val/ or test/; our val split is held out of its training images."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._unreadable: dict[Path, dict[str, str]] = {}  # by the cache that remembers them

    def has_images(self) -> bool:
        """Besides images with masks."""
        return True

    def read(self, root: Path) -> Content:
        raise NotImplementedError

    @cached_property
    def content(self) -> Content:
        found = self.read(existing(self.name))
        if found.test is None and found.classes:
            return replace(found, manifest=manifest([found.manifest, TEST_RULE]))
        return found

    def place(self) -> str:
        return place_of(self.name)

    def facts(self, config: DataConfig) -> dict[str, Any]:
        return {"name": "folder", "manifest": self.content.manifest}

    def counts(self) -> dict[str, int]:
        return {split: len(self._split(split)[1]) for split in SPLITS}

    def classes(self) -> int:
        if not self.content.classes:
            raise UserError(
                f"data.name: {self.name} has no labels (no class folders): it can pre-train, and evaluation.data.name "
                "must name a data set with labels."
            )
        return len(self.content.classes)

    def load(self, config: DataConfig, split: str, cache: Path) -> Images:
        part, index = self._split(split)
        # on disk one class follows the other: `head` must not take the first classes only
        index = index[np.random.default_rng(derive("folder", split)).permutation(len(index))]
        lost = self._lost(part, index, self.unreadable(cache))
        kept = index[~np.isin(index, lost)]
        if not len(kept):
            raise UserError(f"{self.name}/{split}: not one of {len(index)} images is readable.")
        return Images(
            _taken(part.images, kept, config.size), part.labels[kept], len(self.content.classes), config, len(lost)
        )

    def warnings(self) -> list[str]:
        """Classes that are trained and never tested, and a test split that is too small to tell much."""
        if not self.content.classes:
            return []
        if len(self.content.classes) == 1:
            return [f"{self.name}: one class, {self.content.classes[0]}: these images can pre-train; protocols that read labels "
                    "need at least two."]  # fmt: skip
        part, index = self._split("test")
        tested, found = set(part.labels[index].tolist()), []
        missing = [name for label, name in enumerate(self.content.classes) if label not in tested]
        if missing:
            found.append(f"{self.name}: no test images of {some(missing)}: these classes are trained and never tested.")
        if 0 < len(index) < FEW:
            found.append(f"{self.name}: the test split has {len(index)} images: one of them is {100 / len(index):.1f} points "
                         "of accuracy.")  # fmt: skip
        return found

    def unreadable(self, cache: Path, *, again: bool = False) -> dict[str, str]:
        """File -> why."""
        if again or cache not in self._unreadable:
            self._unreadable[cache] = self._scanned(cache, again)
        return self._unreadable[cache]

    def _scanned(self, cache: Path, again: bool) -> dict[str, str]:
        content = self.content
        parts = [part for part in (content.train, content.test) if part is not None]
        files = (
            [found for part in parts for found in part.images if isinstance(found, Path)] if _of_files(parts) else []
        )
        return unreadable_files(content.root, files, cache, again=again) if files else {}

    def left_out(self, splits: Sequence[str], cache: Path) -> list[str]:
        return sorted(name for split in splits for name in self._names(split, self.unreadable(cache)))

    def flags(self, splits: Sequence[str], cache: Path) -> list[str]:
        flags, counts = [], self.counts()
        for split in splits:
            if names := self._names(split, self.unreadable(cache)):
                flags.append(f"{len(names)} unreadable of {counts[split]} images left out of {split}: {some(names)}")
        return [*flags, *self.of_one_class(splits, cache)]

    def of_one_class(self, splits: Sequence[str], cache: Path) -> list[str]:
        """On such images every constant answer is right."""
        flags = []
        for split in splits if self.content.classes else ():
            part, index = self._split(split)
            shown = set(part.labels[index[~np.isin(index, self._lost(part, index, self.unreadable(cache)))]].tolist())
            if split != "train" and len(shown) == 1:
                flags.append(
                    f"{split} shows one class, {self.content.classes[shown.pop()]}: accuracy on it says nothing"
                )
        return flags

    def _split(self, split: str) -> tuple[Part, np.ndarray]:
        content = self.content
        if split == "test" and content.test is not None:
            return content.test, np.arange(len(content.test.labels))
        index = np.arange(len(content.train.labels))
        if content.test is None and content.classes:
            if split == "test":
                return content.train, index[self._held_out]
            index = index[~self._held_out]
        if split == "test":
            return content.train, index[:0]
        if split in ("labeled", "val"):
            index = index[(np.arange(len(index)) % HELD_OUT_EVERY == 0) == (split == "val")]
        return content.train, index

    @cached_property
    def _held_out(self) -> np.ndarray:
        """Of the training images, True for test images: of each class every 5th; of a class of two to four the last."""
        labels = self.content.train.labels
        held_out = np.zeros(len(labels), bool)
        for label in np.unique(labels):
            index = np.flatnonzero(labels == label)
            held_out[index[TEST_EVERY - 1 :: TEST_EVERY] if len(index) >= TEST_EVERY else index[1:][-1:]] = True
        return held_out

    def _names(self, split: str, unreadable: dict[str, str]) -> list[str]:
        """The unreadable files of a split."""
        part, index = self._split(split)
        return sorted(str(part.images[i].relative_to(self.content.root)) for i in self._lost(part, index, unreadable))

    def _lost(self, part: Part, index: np.ndarray, unreadable: dict[str, str]) -> np.ndarray:
        if not unreadable:
            return index[:0]
        lost = {self.content.root / name for name in unreadable}
        return np.array([i for i in index if part.images[i] in lost], np.int64)


def _of_files(parts: list[Part]) -> bool:
    return all(isinstance(part.images, list) for part in parts)


def _taken(images: Any, index: np.ndarray, size: int) -> Any:
    if isinstance(images, np.ndarray):
        found = images[index]
        return found if found.shape[1:3] == (size, size) else list(found)
    if isinstance(images, list):
        return [images[i] for i in index]
    return images.take(index)
