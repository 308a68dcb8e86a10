"""No masking at all."""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from mimbench.registry import MASKERS


@MASKERS.register_module("none")
class NoMask:
    """Masks nothing and predicts every position ("no masking, recover 100 %")."""

    version = 1
    constant_count = True
    neutral: ClassVar = {"predict": "all"}

    def __init__(self, predict: Literal["all"] = "all") -> None:
        self.predict = predict

    def __call__(self, batch: int, grid: tuple[int, int], rng: torch.Generator) -> Tensor:
        return torch.zeros(batch, grid[0] * grid[1], dtype=torch.bool)
