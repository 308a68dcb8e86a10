"""A stranger's masker whose first step takes longer than any time limit; named by its path in a test."""

import time

import torch
from torch import Tensor


class Slow:
    """Hides the first patch, after two minutes; quick on the handful of images that planning draws."""

    version = 1
    constant_count = True

    def __call__(self, batch: int, grid: tuple[int, int], rng: torch.Generator) -> Tensor:
        if batch > 8:
            time.sleep(120)
        hidden = torch.zeros(batch, grid[0] * grid[1], dtype=torch.bool)
        hidden[:, 0] = True
        return hidden
