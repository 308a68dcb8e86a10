"""Pictures that `mimbench show` left beside a report: those that may be published."""

from __future__ import annotations

from pathlib import Path

from mimbench.store.files import write_atomically

FOLDER = "pictures"  # of a report
IMAGES, OURS = "Images", "built-in"  # a text in a PNG, and its value where all images that it shows are ours


def stem(row: str) -> str:
    """What the names of a row's pictures begin with."""
    return row.replace("/", "%2F")


def copy_pictures(report: Path, target: Path) -> None:
    """Those of built-in images; what lay in the target before is replaced."""
    from PIL import Image

    for old in (target / FOLDER).glob("*.png"):
        old.unlink()
    for path in sorted((report / FOLDER).glob("*.png")):
        with Image.open(path) as picture:
            ours = picture.info.get(IMAGES) == OURS
        if ours:
            write_atomically(target / FOLDER / path.name, path.read_bytes())
