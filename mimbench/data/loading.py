"""Batches for training: a DataLoader whose order and augmentation are functions of (seed, epoch, index)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from mimbench.config.schema import ScheduleConfig
from mimbench.config.terms import ViewConfig
from mimbench.data.rendering import render
from mimbench.data.sampling import BatchSampler
from mimbench.data.views import Images
from mimbench.runtime import Runtime


class Keyed(Dataset[Any]):
    """Augmented images by (epoch, index), a whole batch at once; or the `views` of a recipe, by name.

    `tokenizer_side`: a tokenizer gets each image at a size of its own.
    """

    def __init__(
        self, images: Images, seed: int, views: dict[str, ViewConfig] | None = None, patch: int | None = None,
        tokenizer_side: int | None = None,
    ) -> None:  # fmt: skip
        self.images, self.seed, self.views, self.patch = images, seed, views, patch
        self.tokenizer_side = tokenizer_side
        self.labels = torch.from_numpy(images.labels)

    def __getitems__(self, keys: list[tuple[int, int]]) -> dict[str, Any]:
        labels = self.labels[[index for _, index in keys]]
        if self.tokenizer_side is not None:
            raw, own = self.images.for_two(self.seed, keys, self.tokenizer_side)
            return {"raw": raw, "tokenizer_raw": own, "label": labels}
        if not self.views:
            return {"raw": self.images.augmented(self.seed, keys), "label": labels}
        table, size = np.asarray(keys, np.int64), self.images.config.size
        rendered = render(self.images.source, table, self.views, size, self.patch or 1, self.seed)
        return {"views": rendered, "label": labels}


def training_stream(
    dataset: Dataset[Any], size: int, schedule: ScheduleConfig, seed: int, runtime: Runtime, *, repeats: int = 1
) -> Callable[[int], Iterator[Any]]:
    """start -> this rank's batches from that step on, whatever the number of loader workers."""

    def start_at(step: int) -> Iterator[Any]:
        sampler = BatchSampler(
            size,
            schedule.batch,
            schedule.steps,
            seed,
            start=step,
            rank=runtime.rank,
            world=runtime.world,
            repeats=repeats,
        )
        loader = DataLoader(
            dataset, batch_sampler=sampler, collate_fn=_unchanged, num_workers=runtime.workers,
            persistent_workers=runtime.workers > 0, pin_memory=runtime.device.type == "cuda",
        )  # fmt: skip
        return iter(loader)

    return start_at


def _unchanged(batch: Any) -> Any:
    return batch
