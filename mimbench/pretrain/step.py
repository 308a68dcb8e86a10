"""The pre-training step: the heart of the bench, the same for every recipe."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mimbench import registry
from mimbench.config.schema import EncoderConfig
from mimbench.data.sampling import derive
from mimbench.data.views import normalize
from mimbench.models.encoder import Encoder, make_encoder, prefer_unfused_attention
from mimbench.parts import Batch, Tokenizer
from mimbench.pretrain.fit import Objective
from mimbench.pretrain.masks import StepMasks
from mimbench.runtime import Runtime


class Pretraining(Objective):
    """tokenizer(batch) -> targets; encoder(batch, masks) -> features; decoder -> predictions; loss over positions."""

    def __init__(self, encoder: Encoder, tokenizer: FrozenTokenizer, recipe: dict[str, Any], seed: int) -> None:
        super().__init__()
        self.encoder, self.tokenizer = encoder, tokenizer
        drop = encoder.config.masking == "drop"
        self.masks = StepMasks(registry.build("masker", recipe["masker"]), encoder.grid, drop=drop, seed=seed)
        self.loss = registry.build("loss", recipe["loss"])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "decoder"))
            self.decoder = registry.build("decoder", recipe["decoder"])
            self.decoder.build(encoder.dim, tokenizer.width, encoder.grid)
        # a decoder that could restore the grid has nothing to restore where no patch is dropped
        self.may_leave_unused = self.decoder.restores_grid and not drop

    def prepare(self, batch: dict[str, Tensor], step: int, runtime: Runtime) -> list[Any]:
        raw = batch["raw"]
        masks = self.masks.micro_batches(len(raw), step, runtime)
        size = min(runtime.micro_batch or len(raw), len(raw))
        return [{"raw": r, "masks": m} for r, m in zip(raw.split(size), masks, strict=True)]

    def forward(self, micro: dict[str, Any]) -> Tensor:
        masks, batch = micro["masks"], {"raw": micro["raw"], "image": normalize(micro["raw"])}
        target = self.tokenizer(batch)  # (B, N) codes or (B, N, D) features
        encoded = self.encoder(batch["image"], masks)
        prediction = self.decoder(encoded, masks)  # (M, width)
        target = target.flatten(0, 1)[masks.predicted]  # (M,) or (M, D)
        with torch.autocast(prediction.device.type, enabled=False):
            return self.loss(prediction.float(), target).sum() / masks.total


class FrozenTokenizer:
    """Not a Module, so that it is no part of what is trained, saved or distributed."""

    def __init__(self, tokenizer: Tokenizer, encoder: Encoder, device: torch.device) -> None:
        self._tokenizer, self._grid = tokenizer.eval().requires_grad_(False).to(device), encoder.grid
        self.width = tokenizer.width(encoder.grid)

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Tensor:
        # in fp32: half precision turns some codes, and a tokenizer's quality is measured in fp32 too
        with torch.autocast(batch["raw"].device.type, enabled=False):
            return self._tokenizer(batch, self._grid)


def make_pretraining(recipe: dict[str, Any], tokenizer: Tokenizer, seed: int, device: torch.device) -> Pretraining:
    """From the resolved recipe in a run's spec."""
    encoder = make_encoder(EncoderConfig(**recipe["encoder"]), recipe["data"]["size"], seed)
    objective = Pretraining(encoder, FrozenTokenizer(tokenizer, encoder, device), recipe, seed)
    if not torch.cuda.is_available() and recipe["schedule"]["precision"] == "bf16":
        prefer_unfused_attention(objective)
    return objective
