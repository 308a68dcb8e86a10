"""A segmentation folder in ADE20K's layout: images/training/*, annotations/training/*.png, and the same of other splits.

In a mask 0 = not labeled, 1.. = the classes. `mimbench.data.segmentation` reads the files, by mmsegmentation.
"""

from __future__ import annotations

import json
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from mimbench.config.schema import DataConfig
from mimbench.data.mask_statistics import mask_fault, size_fault
from mimbench.data.scan import faults, unreadable_files
from mimbench.data.sources.base import HELD_OUT_EVERY, SEGMENTED, Source, some
from mimbench.data.sources.listing import images_in
from mimbench.data.sources.places import existing, folder_of, line_of, manifest, place_of
from mimbench.errors import UserError
from mimbench.inert import unprintable

FOLDERS = {"labeled": "training", "val": "validation", "test": "test"}
OFFICIAL = "ADEChallengeData2016"  # the archive's own folder
OFFICIAL_FILE, ADE_CLASSES = "objectInfo150.txt", 150


class ADE20K(Source):
    def place(self) -> str | None:
        return place_of(self.name)

    def has_masks(self) -> bool:
        return (self._masks_root / "images" / FOLDERS["labeled"]).is_dir()

    def segmentation_facts(self) -> dict[str, Any]:
        existing(self.name, SEGMENTED[0])
        if not self.has_masks():
            raise self._lacks(*SEGMENTED)
        return {"segmentation_data": "folder", "segmentation_manifest": self._masks_manifest}

    def segmentation_counts(self) -> dict[str, int]:
        root = self._masks_root
        found = {split: len(_images(root, folder)) for split, folder in FOLDERS.items()}
        if has_test(root):
            return found
        held_out = -(-found["labeled"] // HELD_OUT_EVERY)
        return {"labeled": found["labeled"] - held_out, "val": held_out, "test": found["val"]}

    def segmentation_root(self, config: DataConfig, counts: dict[str, int | None], cache: Path) -> Path:
        self._check_masks(cache)
        return self._masks_root

    def segmentation_left_out(self, cache: Path) -> set[Path]:
        files = [path for pair in self._pairs for path in pair]
        lost = unreadable_files(self._masks_root, files, cache).keys()
        return {pair[0] for pair in self._pairs if any(str(p.relative_to(self._masks_root)) in lost for p in pair)}

    def segmentation_flags(self, cache: Path) -> list[str]:
        lost = [str(path.relative_to(self._masks_root)) for path in sorted(self.segmentation_left_out(cache))]
        left_out = f"{len(lost)} images left out, unreadable or with an unreadable mask: {some(lost)}"
        return [*([left_out] if lost else []), *self._flags_of_classes(cache)]

    def _flags_of_classes(self, cache: Path) -> list[str]:
        """A folder that is ADE20K by its name alone, with masks of far fewer classes."""
        root, few = self._masks_root, ADE_CLASSES // 2
        if (root / OFFICIAL_FILE).is_file() or read_classes(root) is not None:
            return []
        check = partial(mask_fault, classes=few)
        if faults(root, self.readable_masks(cache), cache, f"beyond-{few}", check):
            return []
        return [f"no label above {few} occurs in {root.name}, which is scored by ADE20K's {ADE_CLASSES} classes for its name: "
                "write classes.json if these are others"]  # fmt: skip

    def rescan_masks(self, cache: Path) -> None:
        unreadable_files(self._masks_root, [path for pair in self._pairs for path in pair], cache, again=True)

    def readable_masks(self, cache: Path) -> list[Path]:
        lost = self.segmentation_left_out(cache)
        return [mask for image, mask in self._pairs if image not in lost]

    def _check_masks(self, cache: Path) -> None:
        """Before any compute: their labels are those of the classes, and their sizes those of the images."""
        classes, root = self.class_count(), self._masks_root
        check = partial(mask_fault, classes=classes)
        wrong = faults(root, self.readable_masks(cache), cache, f"beyond-{classes}", check) or self.size_faults(cache)
        for name, why in sorted(wrong.items()):
            more = f" And {len(wrong) - 1} more: `mimbench data check` lists them." if len(wrong) > 1 else ""
            raise UserError(f"{root / name}: {why}{more}")

    def size_faults(self, cache: Path) -> dict[str, str]:
        """Masks of another size than their images: labels would be read beside what they name."""
        lost = self.segmentation_left_out(cache)
        images = {mask: image for image, mask in self._pairs if image not in lost}
        check = lambda path: size_fault(path, images[path]) if path in images else None
        return faults(self._masks_root, [*images, *images.values()], cache, "sizes", check)

    def class_count(self) -> int:
        names = read_classes(self._masks_root)
        return ADE_CLASSES if names is None else len(names)

    @cached_property
    def _masks_root(self) -> Path:
        root = folder_of(self.name)
        return root / OFFICIAL if (root / OFFICIAL).is_dir() else root

    @cached_property
    def _pairs(self) -> list[tuple[Path, Path]]:
        """Each image with its mask."""
        root, found = self._masks_root, []
        for folder in FOLDERS.values():
            masked = (root / "annotations" / folder).is_dir()
            for image in _images(root, folder) if masked else ():
                mask = root / "annotations" / folder / f"{image.stem}.png"
                if not mask.is_file():
                    raise UserError(f"{image}: no mask {mask}.")
                found.append((image, mask))
        return found

    @cached_property
    def _masks_manifest(self) -> str:
        root, classes = self._masks_root, read_classes(self._masks_root)
        lines = [line_of(root, path) for pair in self._pairs for path in pair]
        return manifest([*lines, *(classes or ())])


def _images(root: Path, folder: str) -> list[Path]:
    """mmsegmentation reads files of one suffix."""
    place = root / "images" / folder
    found = images_in(place) if place.is_dir() else []
    if len(suffixes := sorted({path.suffix for path in found})) > 1:
        raise UserError(f"{place}: images of several types ({', '.join(suffixes)}); convert them to one.")
    return found


def has_test(root: Path) -> bool:
    """Whether there are masks of the test images. ADE20K's are not public."""
    return (root / "annotations" / FOLDERS["test"]).is_dir()


def read_classes(root: Path) -> list[str] | None:
    """The names of the classes 1, 2, .. by the folder's classes.json; None: ADE20K's 150, in a folder that is ADE20K."""
    path = root / "classes.json"
    if not path.exists():
        if (root / OFFICIAL_FILE).is_file() or root.name in ("ade20k", OFFICIAL):
            return None
        raise UserError(f"{root}: no classes.json, so the names of its classes are not known.{_hint(root)} Write a list of "
                        "them, of the labels 1, 2, ... in this order, such as [\"road\", \"sky\"]. (Only a folder called "
                        f"ade20k, or with {OFFICIAL_FILE} in it, has ADE20K's 150.)")  # fmt: skip
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}).") from error
    strings = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not strings or not len(set(names)) == len(names) >= 2:
        raise UserError(f"{path}: must be a list of at least two different class names.")
    if wrong := next(filter(None, map(unprintable, names)), None):
        raise UserError(f"{path}: the character U+{ord(wrong):04X} is allowed in no name.")
    return names


def _hint(root: Path) -> str:
    return " classes.txt lies there, which is not read." if (root / "classes.txt").is_file() else ""
