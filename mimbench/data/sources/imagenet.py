"""ImageNet-1k with a flat val/: the labels come from the official development kit, or from Kaggle's LOC_val_solution.csv.

With class folders in val/ too, it is an ordinary image folder.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

from mimbench.data.sources.listing import Listing, class_folders, images_in
from mimbench.errors import UserError

WNID = re.compile(r"n\d{8}")  # the name of a class folder
KIT = "ILSVRC2012_devkit_t12"
TRUTH = f"{KIT}/data/ILSVRC2012_validation_ground_truth.txt"
KAGGLE = "LOC_val_solution.csv"


def listing(root: Path) -> Listing | None:
    flat = images_in(root / "val") if (root / "val").is_dir() and (root / "train").is_dir() else []
    classes = class_folders(root / "train") if flat else []
    if not classes:
        return None
    if (root / TRUTH).is_file():
        names = _by_kit(root, flat)
    elif (root / KAGGLE).is_file():
        names = _by_table(root / KAGGLE)
    elif root.name != "imagenet" and not any(WNID.fullmatch(name) for _, name in classes):
        return None
    else:
        raise UserError(
            f"{root / 'val'}: images without class folders. Sort them into folders, or put {KIT}/ or {KAGGLE} into {root}."
        )
    missing = [path for path in flat if path.stem not in names]
    if missing:
        raise UserError(f"{missing[0]}: its class is not known: {root} lists {len(names)} images, not this one.")
    return Listing(classes, [(path, names[path.stem]) for path in flat])


def _by_kit(root: Path, flat: list[Path]) -> dict[str, str]:
    """The ground truth has one class number per line, in the order of the files."""
    numbers = (root / TRUTH).read_text(encoding="utf-8").split()
    if len(numbers) != len(flat):
        raise UserError(f"{root / TRUTH}: {len(numbers)} lines for {len(flat)} images in {root / 'val'}.")
    wnids = _wnids(root / KIT / "data" / "meta.mat")
    try:
        return {path.stem: wnids[int(number)] for path, number in zip(flat, numbers, strict=True)}
    except (ValueError, KeyError) as error:
        raise UserError(f"{root / TRUTH}: {error} is no class number of meta.mat.") from error


def _wnids(path: Path) -> dict[int, str]:
    from scipy.io import loadmat

    try:
        table = loadmat(path, squeeze_me=True)["synsets"]
        return {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in table if int(row["num_children"]) == 0}
    except (OSError, ValueError, KeyError, TypeError, NotImplementedError) as error:
        raise UserError(f"{path}: not readable as the kit's table of classes ({error}).") from error


def _by_table(path: Path) -> dict[str, str]:
    with path.open(encoding="utf-8", newline="") as stream:
        rows = csv.DictReader(stream)
        if not {"ImageId", "PredictionString"} <= set(rows.fieldnames or ()):
            raise UserError(f"{path}: must have the columns ImageId and PredictionString.")
        return {row["ImageId"]: (row["PredictionString"] or "").split(" ", 1)[0] for row in rows}
