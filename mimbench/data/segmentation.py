"""Images with masks, by mmsegmentation's own data set class."""

from __future__ import annotations

import random
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from mimbench import compat as compat  # isort: skip (before mmseg)
from mmengine.dataset import BaseDataset
from mmseg.datasets import ADE20KDataset, BaseSegDataset
from torch.utils.data import Dataset

from mimbench.data.sampling import derive
from mimbench.data.sources.ade20k import FOLDERS, has_test, read_classes
from mimbench.data.sources.base import HELD_OUT_EVERY
from mimbench.data.sources.listing import images_in
from mimbench.data.views import check_available
from mimbench.errors import UserError


def open_split(
    root: Path,
    split: str,
    pipeline: list[dict[str, Any]],
    head: int | None = None,
    left_out: Collection[Path] = (),
) -> BaseDataset:
    """One split of a folder in ADE20K's layout.

    Without test masks the validation images are the test split, and the val split is held out of the training images:
    nothing may be chosen on the test split. Images that are `left_out` change nothing about which others are chosen.
    """
    public = has_test(root)
    folder = FOLDERS[split] if public else FOLDERS["val" if split == "test" else "labeled"]
    place = root / "images" / folder
    files = images_in(place) if place.is_dir() else []
    if not files:
        raise UserError(f"{place}: no images.")
    common = dict(
        data_root=str(root), data_prefix={"img_path": f"images/{folder}", "seg_map_path": f"annotations/{folder}"},
        img_suffix=files[0].suffix, pipeline=pipeline,
    )  # fmt: skip
    classes = read_classes(root)
    dataset = ADE20KDataset(**common) if classes is None else Named(metainfo=_metainfo(classes), **common)
    chosen = list(range(len(dataset)))
    if not public and split != "test":
        chosen = [i for i in chosen if (i % HELD_OUT_EVERY == 0) == (split == "val")]
    check_available(f"{root}: {split}", head, len(chosen))
    if head is not None and head < len(chosen):  # neighbors by name may show one scene
        order = np.random.default_rng(derive("segmentation folder", split)).permutation(len(chosen))
        chosen = [chosen[i] for i in order]
    if left_out:
        chosen = [i for i in chosen if Path(dataset.get_data_info(i)["img_path"]) not in left_out]
        if not chosen:
            raise UserError(f"{place}: not one image of {split} is readable with its mask.")
    chosen = chosen[:head]
    if len(chosen) < len(dataset):
        dataset.get_subset_(chosen)
    return dataset


class Named(BaseSegDataset):
    """ADE20K's layout with the folder's own classes: of ADE20KDataset itself, mmseg allows only subsets of the 150."""

    def __init__(self, **options: Any) -> None:
        super().__init__(seg_map_suffix=".png", reduce_zero_label=True, **options)


def _metainfo(classes: list[str]) -> dict[str, Any]:
    colors = np.random.default_rng(0).integers(0, 256, (len(classes), 3)).tolist()
    return {"classes": tuple(classes), "palette": colors}


class Seeded(Dataset[Any]):
    """Samples by (epoch, index). The transforms of mmcv draw from global generators, seeded here per sample."""

    def __init__(self, dataset: BaseDataset, seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __getitems__(self, keys: list[tuple[int, int]]) -> list[dict[str, Any]]:
        samples = []
        for epoch, index in keys:
            drawn = derive(self.seed, epoch, index) % 2**32
            np.random.seed(drawn)
            random.seed(drawn)
            samples.append(self.dataset[index])
        return samples
