"""The masks of a step: drawn for the whole global batch from (seed, step), then cut into ranks and micro-batches."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mimbench.data.sampling import generator
from mimbench.parts import Masker, Masks, PatchGrid
from mimbench.runtime import Runtime

# Steps whose masks are drawn together: alone, a masker finds its code and tables gone from the processor's caches, and takes
# 1.1 % of a step of scale tiny instead of 0.7 % (`make bench`, with 1 here and with 8)
AHEAD = 8


class StepMasks:
    def __init__(self, masker: Masker, grid: PatchGrid, *, drop: bool, seed: int) -> None:
        self.masker, self.grid, self.drop, self.seed = masker, (grid.rows, grid.columns), drop, seed
        self.predict_all = getattr(masker, "predict", "masked") == "all"
        self._drawn: dict[tuple[int, int], Masks] = {}

    def micro_batches(self, share: int, step: int, runtime: Runtime) -> list[Masks]:
        """This rank's masks, one for each of its micro-batches."""
        whole = self.whole(share * runtime.world, step)
        size = min(runtime.micro_batch or share, share)
        if size == share and runtime.world == 1:
            return [whole]
        mine = whole.masked[runtime.rank * share : (runtime.rank + 1) * share]
        return [self._with_positions(masked, whole.total) for masked in mine.split(size)]

    def whole(self, batch: int, step: int) -> Masks:
        """A function of (seed, step), whichever steps were asked for before."""
        if (batch, step) not in self._drawn:
            self._drawn = {(batch, near): self._draw(batch, near) for near in range(step, step + AHEAD)}
        return self._drawn.pop((batch, step))

    def _draw(self, batch: int, step: int) -> Masks:
        return self._with_positions(self.masker(batch, self.grid, generator(self.seed, "masks", step)))

    def _with_positions(self, masked: Tensor, total: int | None = None) -> Masks:
        """Positions to keep and to predict as index lists, so that no gather on the device has to count them."""
        mask = masked.numpy()  # numpy's lists are faster, and these are made at each step
        predicted = torch.arange(mask.size) if self.predict_all else torch.from_numpy(np.flatnonzero(mask))
        kept = torch.from_numpy(np.nonzero(~mask)[1].reshape(len(mask), -1)) if self.drop else None
        return Masks(masked, predicted, kept, len(predicted) if total is None else total)
