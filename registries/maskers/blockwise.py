"""BEiT's block-wise masking, for a whole batch in lockstep."""

import functools
import math
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mimbench.parts import MASKED_SHARE, Predict, check_amount
from mimbench.registry import MASKERS

ATTEMPTS = 10  # failed attempts at one block after which the published algorithm gives an image up
WORD = np.dtype("<u8")  # a mask is a bit set of 64-bit words, patch 0 in the lowest bit

Words = NDArray[np.uint64]


@MASKERS.register_module("blockwise")
class Blockwise:
    """BEiT's block-wise masking: rectangles of random area and aspect until the count is reached, never exceeded.

    The count is `count` patches, or, without it, the share `ratio` of the grid. BEiT's is `count: 75` of 196.
    As published, an image in which ten attempts at a block fail stays below the count (with BEiT's figures one image
    in three, by 1.6 patches on average); `exact: true` tops such images up with random patches.

    A block's area is uniform between `min_block` and the patches still missing (in either order), the logarithm of
    its aspect uniform between those of `aspect` and 1 / `aspect`; it is placed uniformly and kept if it adds at least
    one patch and no more than are missing.

    With `range` every image draws its own share, uniformly; with the chance `skip` it stays whole (iBOT: 0.1 to 0.5, and
    half of the images whole). A drawn share is not rounded to patches, as published.
    """

    version = 1
    neutral: ClassVar = {"range": None, "skip": 0.0}

    def __init__(
        self,
        ratio: float = MASKED_SHARE,
        count: int | None = None,
        min_block: int = 16,
        aspect: float = 0.3,
        exact: bool = False,
        predict: Predict = "masked",
        range: tuple[float, float] | None = None,
        skip: float = 0.0,
    ) -> None:
        check_amount(ratio, count)
        if min_block < 1:
            raise ValueError(f"min_block must be at least 1 patch, not {min_block}.")
        if not 0 < aspect <= 1:
            raise ValueError(f"aspect is the smallest ratio of a block's sides, in (0, 1], not {aspect}.")
        self.ratio, self.count, self.min_block, self.aspect = ratio, count, min_block, aspect
        if range is not None and (count is not None or ratio != MASKED_SHARE):
            raise ValueError(f"give range, or ratio or count, not both (range {range[0]} to {range[1]}).")
        if range is not None and not 0 < range[0] <= range[1] < 1:
            raise ValueError(f"range must be the smallest share, then the largest, in (0, 1), not {range}.")
        if not 0 <= skip < 1:
            raise ValueError(f"skip is a chance in [0, 1), not {skip}.")
        if exact and (range is not None or skip):
            raise ValueError("exact gives every image the same count, and range and skip vary it; drop one of them.")
        self.exact, self.predict, self.range, self.skip = exact, predict, range, skip

    @property
    def constant_count(self) -> bool:
        return self.exact

    def __call__(self, batch: int, grid: tuple[int, int], rng: torch.Generator) -> Tensor:
        words = np.zeros((batch, _num_words(grid)), dtype=WORD)
        missing = self._targets(batch, grid, rng)
        active = np.arange(batch)
        while active.size:
            # ten attempts at the next block of every active image at once: the first that fits is the one the
            # published loop would have stopped at
            blocks, added = self._attempts(words[active], missing[active], grid, rng)
            fits = (added > 0) & (added <= missing[active, None])
            first = fits.argmax(1)
            row = np.arange(active.size)
            found = fits[row, first]
            active, row, first = active[found], row[found], first[found]
            words[active] |= blocks[row, first]
            missing[active] -= added[row, first]
            active = active[missing[active] > 0]
        mask = np.unpackbits(words.view(np.uint8), axis=1, count=grid[0] * grid[1], bitorder="little").view(bool)
        if self.exact:
            _top_up(mask, missing, rng)
        return torch.from_numpy(mask)

    def _targets(self, batch: int, grid: tuple[int, int], rng: torch.Generator) -> NDArray[Any]:
        """Patches to mask in each image: whole numbers, unless drawn."""
        targets: NDArray[Any] = np.full(batch, self._target(grid))
        if self.range is not None:
            low, high = self.range
            targets = (low + (high - low) * torch.rand(batch, generator=rng).double().numpy()) * grid[0] * grid[1]
        if self.skip:
            targets[torch.rand(batch, generator=rng).numpy() < self.skip] = 0
        return targets

    def _target(self, grid: tuple[int, int]) -> int:
        patches = grid[0] * grid[1]
        if self.count is not None and self.count > patches:
            raise ValueError(
                f"count: {self.count} is more than the {patches} patches of a grid of {grid[0]} x {grid[1]}."
            )
        return round(self.ratio * patches) if self.count is None else self.count

    def _attempts(
        self, words: Words, missing: NDArray[Any], grid: tuple[int, int], rng: torch.Generator
    ) -> tuple[Words, NDArray[np.int64]]:
        """Rectangles (A, ATTEMPTS, words), and the number of patches each would add to its image (A, ATTEMPTS)."""
        rows, columns = grid
        row_bands, column_bands = _bands(rows, columns)
        # float64 from here: sides round alike on every processor, and no product with u < 1 rounds up to the bound
        uniform = torch.rand(4, len(words), ATTEMPTS, generator=rng).numpy().astype(np.float64)
        side = np.sqrt(self.min_block + (missing[:, None] - self.min_block) * uniform[0])
        stretch = np.exp(-math.log(self.aspect) * (uniform[1] - 0.5))
        # blocks as large as the grid are refused, as published: at this size their band is empty
        height = np.minimum(np.rint(side * stretch), rows)
        width = np.minimum(np.rint(side / stretch), columns)
        top = uniform[2] * (rows + 1 - height)
        left = uniform[3] * (columns + 1 - width)
        blocks = row_bands[height.astype(np.intp), top.astype(np.intp)]
        blocks &= column_bands[width.astype(np.intp), left.astype(np.intp)]
        added = np.bitwise_count(blocks & ~words[:, None]).sum(-1, dtype=np.int64)
        return blocks, added


def _num_words(grid: tuple[int, int]) -> int:
    return -(-grid[0] * grid[1] // 64)


@functools.cache
def _bands(rows: int, columns: int) -> tuple[Words, Words]:
    """The bit sets of whole rows and of whole columns, by (extent, first); those of full extent are left empty."""

    def pack(mask: NDArray[Any]) -> Words:
        padded = np.zeros((*mask.shape[:-2], _num_words((rows, columns)) * 64), dtype=bool)
        padded[..., : rows * columns] = mask.reshape(*mask.shape[:-2], -1)
        return np.packbits(padded, axis=-1, bitorder="little").view(WORD)

    def runs(size: int) -> NDArray[Any]:  # (extent, first, position)
        extent, first, position = np.ogrid[: size + 1, : size + 1, :size]
        return (position >= first) & (position < first + extent) & (extent < size)

    of_rows = np.broadcast_to(runs(rows)[..., :, None], (rows + 1, rows + 1, rows, columns))
    of_columns = np.broadcast_to(runs(columns)[..., None, :], (columns + 1, columns + 1, rows, columns))
    return pack(of_rows), pack(of_columns)


def _top_up(mask: NDArray[Any], missing: NDArray[np.int64], rng: torch.Generator) -> None:
    """Mask `missing` more patches of each image, at random, in place."""
    short = np.flatnonzero(missing)
    if not short.size:
        return
    noise = torch.rand(short.size, mask.shape[1], generator=rng).numpy()
    noise[mask[short]] = 2.0  # masked already: last in the order
    order = noise.argsort(axis=1, kind="stable")[:, : missing.max()]
    image, place = np.nonzero(np.arange(order.shape[1]) < missing[short, None])
    mask[short[image], order[image, place]] = True
