"""The masks of a step: drawn for the whole global batch from (seed, step), then cut into ranks and micro-batches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mimbench.data.sampling import generator
from mimbench.parts import Masks, PatchGrid
from mimbench.runtime import Runtime

# Steps whose masks are drawn together: alone, a masker finds its code and tables gone from the processor's caches, and takes
# 1.1 % of a step of scale tiny instead of 0.7 % (`make bench`, with 1 here and with 8)
AHEAD = 8


class StepMasks:
    """The masks of one view. `names` tell its draws from those of other views; the only view has none."""

    def __init__(
        self,
        masker: Any,
        grid: PatchGrid,
        *,
        drop: bool,
        seed: int,
        weighted: bool = False,
        names: tuple[str, ...] = (),
    ) -> None:
        self.masker, self.grid, self.drop, self.seed, self.names = masker, (grid.rows, grid.columns), drop, seed, names
        self.weighted = weighted  # a loss lets images count alike
        self.predict: Any = getattr(masker, "predict", "masked")
        self._drawn: dict[tuple[int, int], Masks] = {}

    def micro_batches(self, share: int, step: int, runtime: Runtime) -> list[Masks]:
        """This rank's masks, one for each of its micro-batches."""
        whole = self.whole(share * runtime.world, step)
        size = min(runtime.micro_batch or share, share)
        if size == share and runtime.world == 1:
            return [whole]
        first = runtime.rank * share
        return [
            self._cut(whole, slice(start, min(start + size, first + share)))
            for start in range(first, first + share, size)
        ]

    def whole(self, batch: int, step: int) -> Masks:
        """A function of (seed, step), whichever steps were asked for before."""
        if (batch, step) not in self._drawn:
            self._drawn = {(batch, near): self._draw(batch, near) for near in range(step, step + AHEAD)}
        return self._drawn.pop((batch, step))

    def _draw(self, batch: int, step: int) -> Masks:
        rng = generator(self.seed, "masks", step, *self.names)
        if hasattr(self.masker, "blocks"):
            masked, blocks = self.masker.blocks(batch, self.grid, rng)
            return self._with_positions(masked, None, blocks, blocks.numel())
        masked = self.masker(batch, self.grid, rng)
        if hasattr(self.masker, "noise"):
            noise = self.masker.noise(batch, self.grid, generator(self.seed, "masks", step, *self.names))
            return replace(self._with_positions(masked, masked, None, None), noise=noise, hidden=int(masked[0].sum()))
        chosen = self._share_of(masked, step) if isinstance(self.predict, float) else masked
        return self._with_positions(masked, chosen, None, None)

    def _share_of(self, masked: Tensor, step: int) -> Tensor:
        """A part of each image's masked patches, at random."""
        noise = torch.rand(masked.shape, generator=generator(self.seed, "predict", step, *self.names))
        rank = noise.masked_fill_(~masked, 2.0).argsort(1).argsort(1)
        counts = (masked.sum(1, keepdim=True) * self.predict).round().clamp_(min=1)
        return (rank < counts) & masked

    def _cut(self, whole: Masks, rows: slice) -> Masks:
        """Some images of the whole batch."""
        count, patches = whole.masked.shape
        if self.predict == "all" or whole.blocks is not None:
            chosen = None
        else:
            chosen = torch.zeros(count * patches, dtype=torch.bool)
            chosen[whole.predicted] = True
            chosen = chosen.view(count, patches)[rows]
        blocks = None if whole.blocks is None else whole.blocks[rows]
        noise = None if whole.noise is None else whole.noise[rows]
        masks = self._with_positions(whole.masked[rows], chosen, blocks, whole.total)
        return replace(masks, noise=noise, hidden=whole.hidden)

    def _with_positions(self, masked: Tensor, chosen: Tensor | None, blocks: Tensor | None, total: int | None) -> Masks:
        """Positions to keep and to predict as index lists, so that no gather on the device has to count them."""
        mask = masked.numpy()  # numpy's lists are faster, and these are made at each step
        weight = None
        if blocks is not None:
            predicted = (blocks + torch.arange(len(blocks)).view(-1, 1, 1) * mask.shape[1]).flatten()
        elif chosen is None or self.predict == "all":
            predicted = torch.arange(mask.size)
        else:
            predicted = torch.from_numpy(np.flatnonzero(chosen.numpy()))
            if self.weighted:
                counts = chosen.sum(1)
                weight = (1 / counts.clamp(min=1)).repeat_interleave(counts)
        kept = torch.from_numpy(np.nonzero(~mask)[1].reshape(len(mask), -1)) if self.drop else None
        return Masks(masked, predicted, kept, len(predicted) if total is None else total, blocks, weight)


def guided(masks: Masks, attention: Tensor) -> Masks:
    """A GuidedMasker's masks, by the attention (B, N) of these images. On the device, which nothing waits for."""
    assert masks.noise is not None
    patches = attention.shape[1]
    order = (masks.noise + attention.log()).argsort(1)  # an attention of zero is never visible before others
    hidden, kept = (part.sort(1).values for part in order.split((masks.hidden, patches - masks.hidden), dim=1))
    masked = torch.zeros_like(masks.masked).scatter_(1, hidden, True)
    flat = hidden + patches * torch.arange(len(hidden), device=hidden.device).unsqueeze(1)
    everything = len(masks.predicted) == masked.numel()
    return replace(
        masks,
        masked=masked,
        predicted=masks.predicted if everything else flat.flatten(),
        kept=None if masks.kept is None else kept,
    )
