"""The pre-training step: the heart of the bench, the same for every recipe."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mimbench import registry
from mimbench.config.schema import EncoderConfig
from mimbench.data.sampling import derive, generator
from mimbench.data.sources.images import normalise
from mimbench.models.encoder import Encoder, prefer_unfused_attention
from mimbench.parts import Masks, Tokenizer
from mimbench.pretrain.fit import Objective, Place


def make_encoder(
    config: EncoderConfig, size: int, seed: int, *, drop_path: float | None = None, masked: bool = True
) -> Encoder:
    """An encoder with the initial weights of replicate `seed`: the same for every row, trained or not."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "encoder"))
        return Encoder(config, size, drop_path=drop_path, masked=masked)


def draw_masks(masker: Any, batch: int, encoder: Encoder, over: str, seed: int, step: int) -> Masks:
    """The masks of a step's whole global batch, drawn on the CPU from (seed, step)."""
    grid = encoder.grid
    hidden = masker(batch, (grid.rows, grid.columns), generator(seed, "masks", step))
    return _with_positions(hidden, over, encoder.config.masking == "drop", 0)


def _with_positions(hidden: Tensor, over: str, drop: bool, total: int) -> Masks:
    """Positions to keep and to predict as index lists, so that no later gather has to ask how many there are."""
    mask = hidden.numpy()  # numpy's lists are faster, and these are made at each step
    predicted = torch.arange(mask.size) if over == "all" else torch.from_numpy(np.flatnonzero(mask))
    kept = torch.from_numpy(np.nonzero(~mask)[1].reshape(len(mask), -1)) if drop else None
    return Masks(hidden, predicted, kept, total or len(predicted))


# Steps whose masks are drawn together: alone, a masker finds its code and tables gone from the processor's caches, and takes
# 1.1 % of a step of scale tiny instead of 0.7 % (`make bench`, with 1 here and with 8)
AHEAD = 8


class Pretraining(Objective):
    """tokenizer(batch) -> targets; encoder(batch, masks) -> features; decoder -> predictions; loss over positions."""

    def __init__(self, encoder: Encoder, tokenizer: Tokenizer, recipe: dict[str, Any], seed: int) -> None:
        super().__init__()
        self.encoder, self.seed = encoder, seed
        # in a list: a frozen tokenizer is no part of what is trained, saved or wrapped
        self._tokenizer = [tokenizer.eval().requires_grad_(False)]
        self.masker = registry.build("masker", recipe["masker"])
        self._drawn: dict[tuple[int, int], Masks] = {}
        self.loss = registry.build("loss", recipe["loss"])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "decoder"))
            self.decoder = registry.build("decoder", recipe["decoder"])
            self.decoder.build(encoder.dim, tokenizer.width(encoder.grid), encoder.grid)
        # a decoder that could restore the grid has nothing to restore where no patch is dropped
        self.may_leave_unused = self.decoder.restores_grid and encoder.config.masking != "drop"

    def prepare(self, batch: dict[str, Tensor], step: int, place: Place) -> list[Any]:
        raw = batch["raw"]
        share, drop = len(raw), self.encoder.config.masking == "drop"
        whole = self.masks(share * place.world, step)
        size = min(place.micro_batch or share, share)
        if size == share and place.world == 1:
            return [{"raw": raw, "masks": whole}]
        mine = whole.hidden[place.rank * share : (place.rank + 1) * share]
        return [
            {"raw": images, "masks": _with_positions(hidden, self.loss.over, drop, whole.total)}
            for images, hidden in zip(raw.split(size), mine.split(size), strict=True)
        ]

    def masks(self, batch: int, step: int) -> Masks:
        """Those of a step's whole global batch: a function of (seed, step), whichever steps were asked for before."""
        if (batch, step) not in self._drawn:
            self._drawn = {
                (batch, near): draw_masks(self.masker, batch, self.encoder, self.loss.over, self.seed, near)
                for near in range(step, step + AHEAD)
            }
        return self._drawn.pop((batch, step))

    def forward(self, micro: dict[str, Any]) -> Tensor:
        masks, grid = micro["masks"], self.encoder.grid
        batch = {"raw": micro["raw"], "image": normalise(micro["raw"])}
        # in fp32: half precision turns some codes, and a tokenizer's fitness is measured in fp32 too
        with torch.no_grad(), torch.autocast(micro["raw"].device.type, enabled=False):
            target = self._tokenizer[0](batch, grid)  # (B, N) codes or (B, N, D) features
        encoded = self.encoder(batch["image"], masks)
        prediction = self.decoder(encoded, masks)  # (M, width)
        target = target.flatten(0, 1)[masks.predicted]  # (M,) or (M, D)
        with torch.autocast(prediction.device.type, enabled=False):
            return self.loss(prediction.float(), target).sum() / masks.total

    def _apply(self, fn: Any, recurse: bool = True) -> Pretraining:
        """Move the tokenizer along with the rest."""
        self._tokenizer[0]._apply(fn, recurse)
        return super()._apply(fn, recurse)


def make_pretraining(recipe: dict[str, Any], tokenizer: Tokenizer, seed: int) -> Pretraining:
    """From the resolved recipe in a run's spec."""
    config = EncoderConfig(**recipe["encoder"])
    encoder = make_encoder(config, recipe["data"]["size"], seed)
    objective = Pretraining(encoder, tokenizer, recipe, seed)
    if not torch.cuda.is_available() and recipe["schedule"]["precision"] == "bf16":
        prefer_unfused_attention(objective)
    return objective
