"""Randomness as a function of names such as (seed, epoch, index), never of a running state.

A resumed run draws what an uninterrupted one would have, whatever the number of loader workers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import torch


def derive(*names: int | str) -> int:
    """A 63-bit seed from names such as (seed, "masks", step)."""
    digest = hashlib.blake2b("/".join(map(str, names)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*names: int | str) -> torch.Generator:
    return torch.Generator().manual_seed(derive(*names))


def uniforms(seed: int, keys: np.ndarray, count: int) -> np.ndarray:
    """(n, count) numbers in [0, 1), a hash (splitmix64) of seed, key row and position. keys: (n, k) integers."""
    state = np.full(len(keys), seed, np.uint64)
    for column in keys.T:
        state = _mix(state ^ column.astype(np.uint64))
    lanes = _mix(state[:, None] + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    return (lanes >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(x: np.ndarray) -> np.ndarray:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class BatchSampler:
    """The (epoch, index) keys of a training run: one shuffled epoch after another, split into steps and ranks.

    Yields this rank's keys for each step from `start` on. A batch may span two epochs: none is short. With `repeats`, each
    image comes that often in a row, under epochs of its own, and an epoch shows as many fewer images.
    """

    def __init__(
        self, size: int, batch: int, steps: int, seed: int, *,
        start: int = 0, rank: int = 0, world: int = 1, repeats: int = 1,
    ) -> None:  # fmt: skip
        if batch % world:
            raise ValueError(f"a batch of {batch} cannot be split evenly over {world} ranks")
        self.size, self.batch, self.steps, self.seed = size, batch, steps, seed
        self.start, self.rank, self.world, self.repeats = start, rank, world, repeats
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        share = self.batch // self.world
        for step in range(self.start, self.steps):
            first = step * self.batch + self.rank * share
            yield [self._key(position) for position in range(first, first + share)]

    def _key(self, position: int) -> tuple[int, int]:
        epoch, offset = divmod(position, self.size)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng(derive(self.seed, "order", epoch)).permutation(self.size)
        image, copy = divmod(offset, self.repeats)
        return epoch * self.repeats + copy, int(self._order[image])
