"""MILAN's masks."""

import torch
from torch import Tensor

from mimbench.parts import MASKED_SHARE, Predict, check_amount
from mimbench.registry import MASKERS


@MASKERS.register_module("attention_guided")
class AttentionGuided:
    """Patches drawn to stay visible, without replacement, by the attention of the teacher's class token (MILAN).

    The noise is Gumbel's: the patches with the largest sums of it and log attention are such a draw. `count` patches are
    masked, or, without it, the share `ratio`, in every image.
    """

    version = 1
    constant_count = True

    def __init__(self, ratio: float = MASKED_SHARE, count: int | None = None, predict: Predict = "masked") -> None:
        check_amount(ratio, count)
        self.ratio, self.count, self.predict = ratio, count, predict

    def noise(self, batch: int, grid: tuple[int, int], rng: torch.Generator) -> Tensor:
        uniform = torch.rand(batch, grid[0] * grid[1], generator=rng).clamp(1e-7, 1 - 1e-7)
        return -(-uniform.log()).log()

    def __call__(self, batch: int, grid: tuple[int, int], rng: torch.Generator) -> Tensor:
        patches = grid[0] * grid[1]
        count = round(self.ratio * patches) if self.count is None else self.count
        if count > patches:
            raise ValueError(f"count: {count} is more than the {patches} patches of the grid.")
        order = self.noise(batch, grid, rng).argsort(1)
        return torch.zeros(batch, patches, dtype=torch.bool).scatter_(1, order[:, :count], True)
