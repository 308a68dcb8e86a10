"""Frozen features: the mean of the patch tokens after every block, extracted once."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mimbench.data.views import Images, normalize
from mimbench.evals.common import EncoderUnderTest, in_batches
from mimbench.models.encoder import Encoder
from mimbench.runtime import Runtime

BATCH = 256


class Split(NamedTuple):
    features: Tensor  # (depth, n, D), standardized per layer and feature by the statistics of the training split
    labels: Tensor  # (n,)
    classes: int


def frozen_splits(under_test: EncoderUnderTest, runtime: Runtime) -> list[Split]:
    """To train, to choose and to test."""
    images = [under_test.images(split) for split in ("labeled", "val", "test")]
    encoder = under_test.encoder()
    features = [extract(encoder, split, runtime) for split in images]
    mean, std = features[0].mean(1, keepdim=True), features[0].std(1, keepdim=True).clamp_min(1e-6)
    return [
        Split((found - mean) / std, torch.from_numpy(split.labels), split.classes)
        for found, split in zip(features, images, strict=True)
    ]


@torch.inference_mode()
def extract(encoder: Encoder, images: Images, runtime: Runtime) -> Tensor:
    """(depth, n, D) float32 on the CPU."""
    encoder = encoder.eval().to(runtime.device)
    layers = tuple(range(encoder.depth))
    parts = []
    for raw in in_batches(images, BATCH, runtime):
        taps = encoder(normalize(raw), taps=layers).taps
        parts.append(torch.stack([taps[layer][:, 1:].mean(1) for layer in layers]).float().cpu())
    return torch.cat(parts, dim=1)
