"""Batches for a training: a DataLoader whose order and augmentation are functions of (seed, epoch, index)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mimbench.data.sampling import BatchSampler
from mimbench.data.sources.images import Images


class Keyed(Dataset[Any]):
    """A data set whose items are asked for by (epoch, index), a whole batch at once."""

    def __init__(self, images: Images, seed: int) -> None:
        self.images, self.seed = images, seed
        self.labels = torch.from_numpy(images.labels)

    def __getitems__(self, keys: list[tuple[int, int]]) -> dict[str, Tensor]:
        indices = torch.tensor([index for _, index in keys])
        return {"raw": self.images.drawn(self.seed, keys), "label": self.labels[indices], "index": indices}


def _as_is(batch: Any) -> Any:
    return batch


def batches(dataset: Dataset[Any], sampler: BatchSampler, *, workers: int = 0, pin: bool = False) -> Iterator[Any]:
    """The batches of `sampler`, in its order, whatever the number of workers."""
    loader = DataLoader(dataset, batch_sampler=sampler, num_workers=workers, collate_fn=_as_is, pin_memory=pin,
                        persistent_workers=workers > 0)  # fmt: skip
    return iter(loader)
