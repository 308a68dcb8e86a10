"""Training a tokenizer: a run of its own, ahead of the pre-trainings that need it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mimbench import registry
from mimbench.data.sampling import derive, uniforms
from mimbench.data.views import normalize
from mimbench.models.encoder import Encoder
from mimbench.parts import Encoded, Masks, PatchGrid, TrainedTokenizer
from mimbench.pretrain.fit import Objective
from mimbench.runtime import Runtime


def make_tokenizer(spec: dict[str, Any], grid: PatchGrid, seed: int) -> Any:
    """The tokenizer with its initial weights, where it has any."""
    tokenizer = registry.build("tokenizer", spec)
    if getattr(tokenizer, "files", ()):
        tokenizer.load()
    if tokenizer.trained:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "tokenizer"))
            tokenizer.build(grid)
    return tokenizer


class FrozenEncoder:
    """An encoder that teaches. Not a Module, so that it is no part of what is trained, saved or distributed."""

    def __init__(self, encoder: Encoder, device: torch.device) -> None:
        self._encoder = encoder.eval().requires_grad_(False).to(device)
        self.dim, self.depth, self.grid = encoder.dim, encoder.depth, encoder.grid

    def __call__(self, images: Tensor, masks: Masks | None = None, taps: tuple[int, ...] = ()) -> Encoded:
        found: Encoded = self._encoder(images, masks, taps)
        return found


class TokenizerFit(Objective):
    """The tokenizer's own loss, on random crops of the training images."""

    def __init__(self, tokenizer: TrainedTokenizer, steps: int, crop: int | None, seed: int) -> None:
        super().__init__()
        self.tokenizer, self.steps, self.crop, self.seed = tokenizer, steps, crop, seed

    def prepare(self, batch: dict[str, Tensor], step: int, runtime: Runtime) -> list[Any]:
        raw = self._cropped(batch["raw"], step, runtime)
        size = min(runtime.micro_batch or len(raw), len(raw))
        share = 1 / (len(raw) * runtime.world)
        return [{"raw": r, "progress": step / self.steps, "share": len(r) * share} for r in raw.split(size)]

    def _cropped(self, raw: Tensor, step: int, runtime: Runtime) -> Tensor:
        """One random window per image, cut for the whole batch by indexing."""
        side = raw.shape[-1]
        if self.crop is None or self.crop >= side:
            return raw
        count = len(raw)
        keys = np.stack([np.full(count, step), runtime.rank * count + np.arange(count)], 1)
        corner = torch.from_numpy(
            (uniforms(derive(self.seed, "crop"), keys, 2) * (side - self.crop + 1)).astype(np.int64)
        )
        span = torch.arange(self.crop)
        rows, columns = corner[:, :1] + span, corner[:, 1:] + span
        image = torch.arange(count)[:, None, None]
        cut = raw.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]]  # (B, crop, crop, 3)
        return cut.permute(0, 3, 1, 2)

    def forward(self, micro: dict[str, Any]) -> Tensor:
        batch = {"raw": micro["raw"], "image": normalize(micro["raw"])}
        loss, _ = self.tokenizer.training_loss(batch, micro["progress"])
        return loss * micro["share"]

    def after_step(self, step: int, world: int) -> None:
        self.tokenizer.after_step(world)
