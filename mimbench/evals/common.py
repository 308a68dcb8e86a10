"""What every evaluation is given, and what it says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mimbench.config.schema import DataConfig, EncoderConfig
from mimbench.data.sources.images import Images, load
from mimbench.models.encoder import Encoder, prefer_unfused_attention
from mimbench.pretrain.fit import load_weights
from mimbench.pretrain.step import make_encoder


@dataclass(frozen=True)
class Subject:
    """The encoder under test and the data it is tested on."""

    config: EncoderConfig
    weights: Path | None  # None: the initial weights of this seed, the row "from scratch"
    seed: int
    data: DataConfig
    segmentation_data: str
    counts: dict[str, int | None]
    cache: Path
    work: Path

    def encoder(self, *, drop_path: float = 0.0, size: int | None = None) -> Encoder:
        """A fresh copy, without the mask token."""
        encoder = make_encoder(self.config, size or self.data.size, self.seed, drop_path=drop_path, masked=False)
        if self.weights is not None:
            encoder.load_state_dict({k: v for k, v in load_weights(self.weights).items() if k != "mask_token"})
        if not torch.cuda.is_available():
            prefer_unfused_attention(encoder)
        return encoder

    def images(self, split: str) -> Images:
        return load(self.data, split, self.cache).head(self.counts[split])


def percent(correct: Tensor) -> float:
    return float(correct.double().mean() * 100)


def at_edge(what: str, chosen: float, tried: list[float]) -> list[str]:
    """A flag where the best value is the lowest or highest tried: a better one may lie outside."""
    if len(tried) > 1 and chosen in (min(tried), max(tried)):
        return [f"the best {what} {chosen:g} is the {'lowest' if chosen == min(tried) else 'highest'} tried"]
    return []
