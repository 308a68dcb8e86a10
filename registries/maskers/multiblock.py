"""I-JEPA's masks: blocks to predict, and a context without them."""

import math

import torch
from torch import Tensor

from mimbench.registry import MASKERS

TRIES = 20  # at a context that keeps enough patches without any of the blocks


@MASKERS.register_module("multiblock")
class Multiblock:
    """I-JEPA's masks: `targets` blocks to predict per image, and one context block without them, which stays visible.

    Sizes are shared by the batch; `scale` and `context` are shares of the grid, `aspect` is height over width. Contexts are
    cut to the smallest of the global batch, in raster order; the published code cuts per GPU. Blocks may touch the bottom
    row and the right column, which the published code never reaches.
    """

    version = 1
    constant_count = True

    def __init__(
        self,
        targets: int = 4,
        scale: tuple[float, float] = (0.15, 0.2),
        aspect: tuple[float, float] = (0.75, 1.5),
        context: tuple[float, float] = (0.85, 1.0),
        min_keep: int = 10,
    ) -> None:
        if targets < 1 or min_keep < 1:
            raise ValueError(f"targets and min_keep must be at least 1, not {targets} and {min_keep}.")
        for name, (low, high), most in (("scale", scale, 1), ("aspect", aspect, math.inf), ("context", context, 1)):
            if not 0 < low <= high <= most:
                raise ValueError(
                    f"{name} must be a range above 0{f' up to {most}' if most == 1 else ''}, not {low} to {high}."
                )
        self.targets, self.scale, self.aspect, self.context, self.min_keep = targets, scale, aspect, context, min_keep

    def __call__(self, batch: int, grid: tuple[int, int], rng: torch.Generator) -> Tensor:
        return self.blocks(batch, grid, rng)[0]

    def blocks(self, batch: int, grid: tuple[int, int], rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """What is hidden, (batch, N), and the positions of the blocks, (batch, targets, P)."""
        if self.min_keep >= grid[0] * grid[1]:
            raise ValueError(f"min_keep must be less than the {grid[0] * grid[1]} patches, not {self.min_keep}.")
        size = self._size(self.scale, self.aspect, grid, rng)
        context_size = self._size(self.context, (1.0, 1.0), grid, rng)
        wanted = self._place(size, batch * self.targets, grid, rng).view(batch, self.targets, -1)
        union = wanted.any(1)
        seen = self._place(context_size, batch, grid, rng) & ~union
        for _ in range(TRIES):
            few = seen.sum(1) < self.min_keep
            if not few.any():
                break
            seen[few] = self._place(context_size, int(few.sum()), grid, rng) & ~union[few]
        for kept in reversed(range(self.targets)):  # as published: ever fewer blocks are cut out of the context
            few = seen.sum(1) < self.min_keep
            if not few.any():
                break
            seen[few] = self._place(context_size, int(few.sum()), grid, rng) & ~wanted[few, :kept].any(1)
        seen &= seen.cumsum(1) <= int(seen.sum(1).min())
        return ~seen, wanted.nonzero()[:, 2].view(batch, self.targets, -1)

    @staticmethod
    def _size(
        scale: tuple[float, float], aspect: tuple[float, float], grid: tuple[int, int], rng: torch.Generator
    ) -> tuple[int, int]:
        """Height and width; one number gives scale and aspect both, as published."""
        uniform = torch.rand(1, generator=rng).item()
        area = grid[0] * grid[1] * (scale[0] + uniform * (scale[1] - scale[0]))
        ratio = aspect[0] + uniform * (aspect[1] - aspect[0])
        height, width = round(math.sqrt(int(area) * ratio)), round(math.sqrt(int(area) / ratio))
        return max(1, min(height, grid[0])), max(1, min(width, grid[1]))

    @staticmethod
    def _place(size: tuple[int, int], count: int, grid: tuple[int, int], rng: torch.Generator) -> Tensor:
        """(count, N): that many blocks of this size, anywhere."""
        top = torch.randint(grid[0] - size[0] + 1, (count, 1), generator=rng)
        left = torch.randint(grid[1] - size[1] + 1, (count, 1), generator=rng)
        row, column = torch.arange(grid[0]), torch.arange(grid[1])
        in_rows, in_columns = (row >= top) & (row < top + size[0]), (column >= left) & (column < left + size[1])
        return (in_rows[:, :, None] & in_columns[:, None, :]).flatten(1)
