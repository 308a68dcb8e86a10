"""Frozen features: the mean of the patch tokens after every block, extracted once."""

from __future__ import annotations

import torch
from torch import Tensor

from mimbench.data.sources.images import Images, normalise
from mimbench.models.encoder import Encoder
from mimbench.pretrain.fit import Place

BATCH = 256


@torch.inference_mode()
def extract(encoder: Encoder, images: Images, place: Place) -> Tensor:
    """(depth, n, D) float32 on the CPU."""
    device = place.device
    encoder = encoder.eval().to(device)
    layers = tuple(range(encoder.depth))
    parts = []
    for start in range(0, len(images), BATCH):
        place.breathe()
        raw = images.plain(range(start, min(start + BATCH, len(images)))).to(device)
        taps = encoder(normalise(raw), taps=layers).taps
        parts.append(torch.stack([taps[layer][:, 1:].mean(1) for layer in layers]).float().cpu())
    return torch.cat(parts, dim=1)


def standardise(train: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Zero mean and unit variance per layer and feature, by the statistics of the training split."""
    mean, std = train.mean(1, keepdim=True), train.std(1, keepdim=True).clamp_min(1e-6)
    return tuple((split - mean) / std for split in (train, *others))
