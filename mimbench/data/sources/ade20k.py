"""A segmentation folder in ADE20K's layout: images/training/*, annotations/training/*.png, and the same of other splits.

In a mask 0 = not labeled, 1.. = the classes. `mimbench.data.segmentation` reads the files, by mmsegmentation.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mimbench.config.schema import DataConfig
from mimbench.data.sources.base import HELD_OUT_EVERY, SEGMENTED, Source, folder_of, manifest
from mimbench.errors import UserError
from mimbench.store.files import fingerprint

FOLDERS = {"labeled": "training", "val": "validation", "test": "test"}


class ADE20K(Source):
    def segmentation_facts(self) -> dict[str, Any]:
        root = folder_of(self.name)
        if not (root / "images" / FOLDERS["labeled"]).is_dir():
            raise self._lacks(*SEGMENTED)
        files = sorted(p for kind in ("images", "annotations") for p in (root / kind).rglob("*") if p.is_file())
        found, classes = manifest(root, files), read_classes(root)
        return {"segmentation_manifest": fingerprint([found, classes]) if classes else found}

    def segmentation_counts(self) -> dict[str, int]:
        root = folder_of(self.name)
        found = {split: sum(p.is_file() for p in (root / "images" / FOLDERS[split]).glob("*")) for split in FOLDERS}
        if has_test(root):
            return found
        held_out = -(-found["labeled"] // HELD_OUT_EVERY)
        return {"labeled": found["labeled"] - held_out, "val": held_out, "test": found["val"]}

    def segmentation_root(self, config: DataConfig, counts: dict[str, int | None], cache: Path) -> Path:
        return folder_of(self.name)


def has_test(root: Path) -> bool:
    """Whether there are masks of the test images. ADE20K's are not public."""
    return (root / "annotations" / FOLDERS["test"]).is_dir()


def read_classes(root: Path) -> list[str] | None:
    """The names of the classes 1, 2, .. by the folder's classes.json; None: ADE20K's 150."""
    path = root / "classes.json"
    if not path.exists():
        return None
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}).") from error
    strings = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not strings or not len(set(names)) == len(names) >= 2:
        raise UserError(f"{path}: must be a list of at least two different class names.")
    return names
