"""Uniformly random masking, of patches (MAE, BEiT's ablation) or of larger cells (SimMIM)."""

import math

import numpy as np
import torch
from torch import Tensor

from mimbench.parts import MASKED_SHARE, Predict, check_amount, check_predict
from mimbench.registry import MASKERS


@MASKERS.register_module("random")
class Random:
    """Uniformly random patches, or square cells of patches; the same count in every image.

    `count` patches are masked, or, without it, the share `ratio`: rounded to the nearest patch, as block-wise masking
    does, but up to a whole cell where a cell is more than a patch, as SimMIM does. SimMIM's 32-pixel cells on patches
    of 16 pixels are `cell: 2`; with `ratio: 0.6` it masks 30 of 49 cells. BEiT masks `count: 75` of 196 patches.
    """

    version = 1
    constant_count = True

    def __init__(
        self, ratio: float = MASKED_SHARE, count: int | None = None, cell: int = 1, predict: Predict | float = "masked"
    ) -> None:
        check_amount(ratio, count)
        check_predict(predict)
        if cell < 1:
            raise ValueError(f"cell must be at least 1 patch, not {cell}.")
        if count is not None and count % cell**2:
            raise ValueError(f"count must be whole cells of {cell} x {cell} patches, and {count} is not.")
        self.ratio, self.count, self.cell, self.predict = ratio, count, cell, predict

    def __call__(self, batch: int, grid: tuple[int, int], rng: torch.Generator) -> Tensor:
        if grid[0] % self.cell or grid[1] % self.cell:
            fits = [str(cell) for cell in range(1, min(grid) + 1) if not (grid[0] % cell or grid[1] % cell)]
            raise ValueError(f"cells of {self.cell} x {self.cell} patches do not tile a grid of {grid[0]} x {grid[1]}; "
                             f"cell can be {', '.join(fits)}.")  # fmt: skip
        rows, columns = grid[0] // self.cell, grid[1] // self.cell
        mask = np.zeros((batch, rows * columns), dtype=bool)
        noise = torch.rand(batch, rows * columns, generator=rng).numpy()
        count = self._cells(rows * columns)
        if count:
            # positions, not a threshold on the noise: two equal draws must not change the count
            np.put_along_axis(mask, np.argpartition(noise, count - 1, axis=1)[:, :count], True, axis=1)
        if self.cell > 1:
            mask = mask.reshape(batch, rows, columns).repeat(self.cell, axis=1).repeat(self.cell, axis=2)
        return torch.from_numpy(mask.reshape(batch, -1))

    def _cells(self, cells: int) -> int:
        """Number of cells to mask, of `cells`."""
        if self.count is None:
            share = self.ratio * cells
            return round(share) if self.cell == 1 else math.ceil(share - 1e-9)  # in floats 0.07 * 100 exceeds 7
        count = self.count // self.cell**2
        if count > cells:
            raise ValueError(f"count: {self.count} is more than the {cells * self.cell**2} patches of the grid.")
        return count
