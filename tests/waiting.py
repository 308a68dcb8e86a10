"""A third party's masker that waits at each step: a run lasts as long as a test wishes, without using the processor.

Named by its path, `masker.type=tests.waiting.Waiting`; the process that trains is told the seconds by its environment,
so that the run is the same one, bit for bit, wherever it does not wait.
"""

import os
import time

import torch
from torch import Tensor

VARIABLE = "SECONDS_PER_STEP"


class Waiting:
    """Hides the first patch."""

    version = 1
    constant_count = True

    def __call__(self, batch: int, grid: tuple[int, int], rng: torch.Generator) -> Tensor:
        if batch > 8:  # not on the handful of images that planning draws
            time.sleep(float(os.environ.get(VARIABLE, 0)))
        hidden = torch.zeros(batch, grid[0] * grid[1], dtype=torch.bool)
        hidden[:, 0] = True
        return hidden
