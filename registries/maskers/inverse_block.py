"""Masks around one visible block."""

import math

import numpy as np
import torch
from torch import Tensor

from mimbench.parts import Predict, check_predict
from mimbench.registry import MASKERS


@MASKERS.register_module("inverse_block")
class InverseBlock:
    """CAPI's masks: one rectangle stays visible, anywhere, around the borders too; the same count in every image.

    `ratio` of the patches are masked. The rectangle's aspect, height over width, is log-uniform between `aspect` and
    1 / `aspect`, as far as the grid allows; its last row is cut to the count.
    """

    version = 1
    constant_count = True

    def __init__(self, ratio: float = 0.65, aspect: float = 0.5, predict: Predict | float = "masked") -> None:
        if not 0 < ratio < 1 or not 0 < aspect <= 1:
            raise ValueError(f"ratio must lie between 0 and 1, aspect in (0, 1], not {ratio} and {aspect}.")
        check_predict(predict)
        self.ratio, self.aspect, self.predict = ratio, aspect, predict

    def __call__(self, batch: int, grid: tuple[int, int], rng: torch.Generator) -> Tensor:
        rows, columns = grid
        visible = max(1, rows * columns - round(self.ratio * rows * columns))
        low = max(math.log(self.aspect), math.log(visible / columns**2))
        high = min(-math.log(self.aspect), math.log(rows**2 / (visible + 1e-5)))
        uniform = torch.rand(3, batch, 1, generator=rng).double().numpy()
        aspect = np.exp(low + (high - low) * uniform[0])
        least = math.ceil(visible / rows)  # of the width: more rows than the grid has would overlap
        width = np.clip(np.ceil(np.sqrt(visible / aspect)), least, columns).astype(np.int64)  # (batch, 1)
        place = np.arange(visible)
        row = (np.floor(uniform[1] * rows).astype(np.int64) + place // width) % rows
        column = (np.floor(uniform[2] * columns).astype(np.int64) + place % width) % columns
        mask = np.ones((batch, rows * columns), dtype=bool)
        np.put_along_axis(mask, row * columns + column, False, axis=1)
        return torch.from_numpy(mask)
