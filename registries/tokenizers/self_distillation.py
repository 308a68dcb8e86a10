"""A teacher's distribution over prototypes."""

from typing import ClassVar, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from mimbench.models.sinkhorn import sinkhorn
from mimbench.parts import Level, Masks, PatchGrid, Taught, TeacherTokenizer, picked
from mimbench.registry import TOKENIZERS


@TOKENIZERS.register_module("self_distillation")
class SelfDistillation(TeacherTokenizer):
    """DINO's and iBOT's targets: the teacher's head, centered and sharpened, a distribution over prototypes.

    The center is a moving average of the scores of all images (or of all their patches) and ranks; a step uses the center
    from before it. The temperature rises linearly from `start` over the share `warmup` of the training.

    `centering: sinkhorn` balances instead: each prototype gets an equal share of the images of a view, or of all predicted
    patches of it, by Sinkhorn-Knopp over all ranks (DINOv2, which balances its views together).
    """

    version = 1
    neutral: ClassVar = {"centering": "mean", "iterations": 3}
    target = "distribution"
    levels = ("patch", "image")
    needs_head = True
    needs_rows = True

    center: Tensor
    sums: Tensor

    def __init__(
        self,
        prototypes: int = 65536,
        temperature: float = 0.04,
        start: float = 0.04,
        warmup: float = 0.0,
        center_momentum: float = 0.9,
        centering: Literal["mean", "sinkhorn"] = "mean",
        iterations: int = 3,
    ) -> None:
        super().__init__()
        if prototypes < 2:
            raise ValueError(f"prototypes must be at least 2, not {prototypes}.")
        if iterations < 1:
            raise ValueError(f"iterations must be at least 1, not {iterations}.")
        if not (temperature > 0 and start > 0 and 0 <= warmup <= 1 and 0 <= center_momentum < 1):
            raise ValueError("temperatures must be greater than 0, warmup between 0 and 1, center_momentum in [0, 1).")
        self.prototypes, self.temperature, self.start = prototypes, temperature, start
        self.warmup, self.center_momentum, self.iterations = warmup, center_momentum, iterations
        self.whole_batch = centering == "sinkhorn"
        self.register_buffer("center", torch.zeros(prototypes))
        self.register_buffer("sums", torch.zeros(prototypes + 1), persistent=False)  # of this step, and their number

    def width(self, grid: PatchGrid) -> int:
        return self.prototypes

    def forward(self, taught: Taught, masks: Masks | None, level: Level) -> Tensor:  # type: ignore[override]
        warm = min(1.0, taught.progress / self.warmup) if self.warmup else 1.0
        temperature = self.start + (self.temperature - self.start) * warm
        if self.whole_batch:
            return self._balanced(taught, masks, level, temperature)
        scores = taught.head.rows(taught.encoded.cls if level == "image" else taught.encoded.patches).float()
        flat = scores.flatten(0, -2)
        self.sums += torch.cat([flat.sum(0), flat.new_full((1,), len(flat))])
        return ((scores - self.center) / temperature).softmax(-1)

    def _balanced(self, taught: Taught, masks: Masks | None, level: Level, temperature: float) -> Tensor:
        """Of the images, or of the predicted patches; the others' distributions, which nobody reads, are uniform."""
        x = picked(taught.encoded, None if level == "image" else masks)
        found = sinkhorn(taught.head.rows(x).float() / temperature, self.iterations)
        if level == "image" or masks is None:
            return found
        everywhere = found.new_full((masks.masked.numel(), self.prototypes), 1 / self.prototypes)
        return everywhere.index_copy(0, masks.predicted, found).view(*masks.masked.shape, -1)

    def after_step(self, world: int) -> None:
        if self.whole_batch:
            return
        if world > 1:
            dist.all_reduce(self.sums)
        self.center.lerp_(self.sums[:-1] / self.sums[-1], 1 - self.center_momentum)
        self.sums.zero_()
