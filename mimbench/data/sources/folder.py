"""A folder of image files: class folders with or without a test split, or a flat folder without labels."""

from __future__ import annotations

from pathlib import Path

from mimbench.data.sources import imagenet, tiny_imagenet
from mimbench.data.sources.ade20k import OFFICIAL
from mimbench.data.sources.base import LABELED, SEGMENTED
from mimbench.data.sources.ignored import ignored
from mimbench.data.sources.listing import Files, Listing, class_folders, content_of, images_in, subfolders
from mimbench.data.sources.places import existing
from mimbench.data.sources.splits import Content, Listed
from mimbench.errors import UserError

TRAIN, TEST = ("train", "training"), ("val", "test", "validation", "valid")  # the first that is there


class ImageFolder(Listed):
    """train/ with val/ or test/; train/ alone, or class folders alone; or images without class folders: no labels."""

    def has_images(self) -> bool:
        root = existing(self.name)
        return _train(root) is not None or not _with_masks(root)

    def read(self, root: Path) -> Content:
        if not self.has_images():
            raise UserError(
                f"{self.name}: images with masks, which {SEGMENTED[0]} names. As images with labels, {LABELED[0]}, name a "
                f"folder that has {LABELED[1]}."
            )
        for layout in (tiny_imagenet.listing, imagenet.listing, _listing):
            if found := layout(root):
                return content_of(root, found)
        raise UserError(f"{root}: no images. Expected: train/ and val/ (or test/) with one folder per class, class folders "
                        "alone, or images alone.")  # fmt: skip

    def warnings(self) -> list[str]:
        content = self.content
        used = {path for part in (content.train, content.test) if part is not None for path in part.images}
        with_masks = ("images", "annotations", OFFICIAL) if _with_masks(content.root) else ()
        return [*super().warnings(), *ignored(self.name, content.root, used, with_masks)]


def _with_masks(root: Path) -> bool:
    return any((place / "images" / "training").is_dir() for place in (root, root / OFFICIAL))


def _train(root: Path) -> Path | None:
    folders = subfolders(root)
    return next((folders[name] for name in TRAIN if name in folders), None)


def _listing(root: Path) -> Listing | None:
    train, folders = _train(root), subfolders(root)
    test = next((folders[name] for name in TEST if name in folders), None)
    files = class_folders(train or root)
    if not files:
        flat: Files = [(path, "") for path in images_in(train or root)]
        return Listing(flat, None, labeled=False) if flat else None
    splits = sorted({name for _, name in files if name.lower() in TEST}) if train is None else []
    if splits:
        raise UserError(f"{root / splits[0]}: {splits[0]} is the name of a split, and there is no train/. Rename the folder of "
                        "the training images to train/, or this class.")  # fmt: skip
    return Listing(files, None if test is None or train is None else _test(test))


def _test(folder: Path) -> Files:
    found = class_folders(folder)
    if not found:
        raise UserError(f"{folder}: no images in class folders.{_flat(folder)}")
    return found


def _flat(folder: Path) -> str:
    return " Sort its images into folders by their class." if images_in(folder) else ""
