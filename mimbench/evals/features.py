"""Frozen features: the mean of the patch tokens and the class token after every block."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mimbench.data.views import Images, normalize
from mimbench.evals.common import EncoderUnderTest, in_batches
from mimbench.models.encoder import Encoder
from mimbench.runtime import Runtime
from mimbench.store.weights import load_weights

BATCH = 256
SPLITS = ("labeled", "val", "test")  # to train, to choose and to test
POOLINGS = ("mean", "class_token", "both")  # every row is offered all three


class Split(NamedTuple):
    features: Tensor  # (depth, n, 2 D): the mean of the patch tokens, then the class token
    labels: Tensor  # (n,)
    classes: int


def frozen_splits(under_test: EncoderUnderTest) -> list[Split]:
    """As the run `features` left them."""
    assert under_test.features is not None
    features, splits = load_weights(under_test.features), []
    for split in SPLITS:
        images = under_test.images(split)
        splits.append(Split(features[split], torch.from_numpy(images.labels), images.classes))
    return splits


def extract_splits(under_test: EncoderUnderTest, runtime: Runtime) -> dict[str, Tensor]:
    """By split, standardized per layer and feature by the statistics of the training split."""
    encoder = under_test.encoder()
    found = {split: extract(encoder, under_test.images(split), runtime) for split in SPLITS}
    mean, std = standardization(found["labeled"])
    return {split: (features - mean) / std for split, features in found.items()}


def offered_blocks(encoder: Encoder) -> tuple[int, ...]:
    """Of which heads on all tokens choose one: those that UPerNet reads, each once."""
    return tuple(dict.fromkeys(encoder.tapped()))


def standardization(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over the second dimension; a feature that never varies is left alone."""
    mean, std = features.mean(1, keepdim=True), features.std(1, keepdim=True)
    return mean, torch.where(std > 1e-6, std, 1.0)


@torch.inference_mode()
def extract(encoder: Encoder, images: Images, runtime: Runtime) -> Tensor:
    """(depth, n, 2 D) float32 on the CPU."""
    encoder = encoder.eval().to(runtime.device)
    layers = tuple(range(encoder.depth))
    parts = []
    for raw in in_batches(images, BATCH, runtime):
        taps = encoder(normalize(raw), taps=layers).taps
        parts.append(torch.stack([encoder.pooled(taps[layer], "both") for layer in layers]).float().cpu())
    return torch.cat(parts, dim=1)


def chosen_part(features: Tensor, pooling: str) -> Tensor:
    """The features of one pooling: the mean, the class token, or both."""
    dim = features.shape[-1] // 2
    return {"mean": features[..., :dim], "class_token": features[..., dim:], "both": features}[pooling]
