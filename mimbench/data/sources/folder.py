"""A folder of image files: class folders with or without a test split, or a flat folder without labels."""

from __future__ import annotations

from pathlib import Path

from mimbench.data.sources import imagenet, tiny_imagenet
from mimbench.data.sources.base import LABELED
from mimbench.data.sources.listing import Files, Listing, class_folders, content_of, images_in
from mimbench.data.sources.splits import Content, Listed
from mimbench.errors import UserError

MASK_FOLDERS = frozenset({"images", "annotations"})  # of ADE20K's layout


class ImageFolder(Listed):
    """train/ with val/ or test/; train/ alone, or class folders alone; or images without class folders: no labels."""

    def content(self, root: Path) -> Content:
        for layout in (tiny_imagenet.listing, imagenet.listing, _listing):
            if found := layout(root):
                return content_of(root, found)
        if (root / "images" / "training").is_dir():
            raise self._lacks(*LABELED)
        raise UserError(f"{root}: no images. Expected: train/ and val/ (or test/) with one folder per class, class folders "
                        "alone, or images alone.")  # fmt: skip


def _listing(root: Path) -> Listing | None:
    train = root / "train" if (root / "train").is_dir() else root
    is_ade = train == root and (root / "annotations").is_dir()
    files = class_folders(train, MASK_FOLDERS if is_ade else frozenset())
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
