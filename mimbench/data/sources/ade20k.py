"""Segmentation data in ADE20K's folder layout, read by mmsegmentation's own data set class.

images/{training,validation,test}/*, annotations/{...}/*.png; in a mask 0 = not labelled, 1.. = the classes.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np

from mimbench import compat as compat  # isort: skip (before mmseg)
from mmengine.dataset import BaseDataset
from mmseg.datasets import ADE20KDataset
from PIL import Image
from torch.utils.data import Dataset

from mimbench.config.schema import DataConfig
from mimbench.data.sampling import derive
from mimbench.data.sources import shapes
from mimbench.data.sources.images import EVERY_NTH_HELD_OUT, load, load_masks, segmentation_classes
from mimbench.errors import UserError
from mimbench.store.files import make_folder_once

FOLDERS = {"labelled": "training", "val": "validation", "test": "test"}


def write_shapes(config: DataConfig, counts: dict[str, int | None], cache: Path) -> Path:
    """The embedded data as PNG files in ADE20K's layout, once. The ground is a class, as sky and wall are in ADE20K."""

    def fill(root: Path) -> None:
        for split, folder in FOLDERS.items():
            images, masks = load(config, split, cache).head(counts[split]), load_masks(config, split, cache)
            for kind in ("images", "annotations"):
                (root / kind / folder).mkdir(parents=True)
            for index in range(len(images)):
                name = f"shapes_{index:06d}.png"
                Image.fromarray(np.asarray(images.source[index])).save(root / "images" / folder / name)
                Image.fromarray(masks[index] + 1).save(root / "annotations" / folder / name)
        (root / "classes.json").write_text(json.dumps(["ground", *shapes.CLASSES]))

    sizes = "-".join(str(counts[s] or "all") for s in FOLDERS)
    return make_folder_once(cache / f"shapes-ade-v{shapes.VERSION}-{config.size}-{sizes}", fill)


def dataset(root: Path, split: str, pipeline: list[dict[str, Any]], head: int | None = None) -> BaseDataset:
    """mmsegmentation's ADE20KDataset over one split; classes as the folder's classes.json names them, else ADE20K's.

    ADE20K's test masks are not public. Where there are none its validation images are the test, and of its training
    images some are held out, for nothing may be chosen on the test.
    """
    own_test = (root / "annotations" / FOLDERS["test"]).is_dir()
    folder = FOLDERS[split] if own_test else FOLDERS["val" if split == "test" else "labelled"]
    files = [p for p in sorted((root / "images" / folder).glob("*")) if p.is_file()]
    if not files:
        raise UserError(f"{root / 'images' / folder}: holds no images.")
    found = _dataset_class(root)(
        data_root=str(root), data_prefix={"img_path": f"images/{folder}", "seg_map_path": f"annotations/{folder}"},
        img_suffix=files[0].suffix, pipeline=pipeline,
    )  # fmt: skip
    chosen = list(range(len(found)))
    if not own_test and split != "test":
        chosen = [i for i in chosen if (i % EVERY_NTH_HELD_OUT == 0) == (split == "val")]
    if head is not None and head > len(chosen):
        raise UserError(f"{root}: {head} {split} images asked for, {len(chosen)} are there.")
    if head is not None and head < len(chosen):  # neighbours by name may show one scene
        order = np.random.default_rng(derive("segmentation folder", split)).permutation(len(chosen))
        chosen = [chosen[i] for i in order[:head]]
    if len(chosen) < len(found):
        found.get_subset_(chosen)
    return found


def _dataset_class(root: Path) -> type[ADE20KDataset]:
    """ADE20KDataset, or the same with the classes that the folder names (mmseg allows only subsets of the 150)."""
    named = segmentation_classes(root)
    if named is None:
        return ADE20KDataset
    classes = tuple(named)
    colours = np.random.default_rng(0).integers(0, 256, (len(classes), 3)).tolist()
    return type("NamedADE20KDataset", (ADE20KDataset,), {"METAINFO": {"classes": classes, "palette": colours}})


class Seeded(Dataset[Any]):
    """Samples of an mmseg data set by (epoch, index); its transforms' global randomness is seeded for each."""

    def __init__(self, inner: BaseDataset, seed: int) -> None:
        self.inner, self.seed = inner, seed

    def __getitems__(self, keys: list[tuple[int, int]]) -> list[dict[str, Any]]:
        samples = []
        for epoch, index in keys:
            drawn = derive(self.seed, epoch, index) % 2**32
            np.random.seed(drawn)  # mmcv's transforms draw from numpy's and Python's global generators
            random.seed(drawn)
            samples.append(self.inner[index])
        return samples
