"""Tiny ImageNet as Stanford distributes it: train/<wnid>/images/, and a flat val/images/ with val_annotations.txt."""

from __future__ import annotations

from pathlib import Path

from mimbench.data.sources.listing import Listing, class_folders
from mimbench.errors import UserError


def listing(root: Path) -> Listing | None:
    notes = root / "val" / "val_annotations.txt"
    if not notes.is_file():
        return None
    test = []
    for number, line in enumerate(notes.read_text(encoding="utf-8").splitlines(), 1):
        words = line.split("\t")
        if len(words) < 2:
            raise UserError(f"{notes}, line {number}: must be a file name, a tab and a class.")
        test.append((root / "val" / "images" / words[0], words[1]))
    return Listing(class_folders(root / "train"), sorted(test))
