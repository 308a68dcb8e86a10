"""A folder of image files: class folders with or without a test split, or a flat folder without labels."""

from __future__ import annotations

from pathlib import Path

from mimbench.data.sources import imagenet, tiny_imagenet
from mimbench.data.sources.ade20k import OFFICIAL
from mimbench.data.sources.base import LABELED
from mimbench.data.sources.listing import Files, Listing, class_folders, content_of, images_in
from mimbench.data.sources.places import existing
from mimbench.data.sources.splits import Content, Listed
from mimbench.errors import UserError


class ImageFolder(Listed):
    """train/ with val/ or test/; train/ alone, or class folders alone; or images without class folders: no labels."""

    def has_images(self) -> bool:
        root = existing(self.name)
        with_masks = any((place / "images" / "training").is_dir() for place in (root, root / OFFICIAL))
        return (root / "train").is_dir() or not with_masks

    def read(self, root: Path) -> Content:
        if not self.has_images():
            raise self._lacks(*LABELED)
        for layout in (tiny_imagenet.listing, imagenet.listing, _listing):
            if found := layout(root):
                return content_of(root, found)
        raise UserError(f"{root}: no images. Expected: train/ and val/ (or test/) with one folder per class, class folders "
                        "alone, or images alone.")  # fmt: skip


def _listing(root: Path) -> Listing | None:
    train = root / "train" if (root / "train").is_dir() else root
    files = class_folders(train)
    if not files:
        flat: Files = [(path, "") for path in images_in(train)]
        return Listing(flat, None, labeled=False) if flat else None
    test = next((root / name for name in ("val", "test") if train != root and (root / name).is_dir()), None)
    return Listing(files, None if test is None else _test(test))


def _test(folder: Path) -> Files:
    found = class_folders(folder)
    if not found:
        raise UserError(f"{folder}: no images in class folders.")
    return found
