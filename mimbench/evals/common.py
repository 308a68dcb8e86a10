"""What every evaluation gets: the encoder under test and its data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mimbench.config.schema import DataConfig, EncoderConfig
from mimbench.data.sources import opened
from mimbench.data.views import Images
from mimbench.errors import RunFailed
from mimbench.models.encoder import Encoder, choose_attention, make_encoder
from mimbench.models.positions import on_grid
from mimbench.runtime import Runtime
from mimbench.store.weights import load_weights

WORST = -1.0  # held-out score of a training run that diverged: below any other


@dataclass(frozen=True)
class EncoderUnderTest:
    """The encoder under test and the data it is tested on."""

    config: EncoderConfig
    weights: Path | None  # None: the initial weights of this seed, the row "from scratch"
    features: Path | None  # of a protocol that reads the frozen features
    pooling: str  # what the linear probe chose, for a protocol that takes it over
    seed: int
    data: DataConfig
    segmentation_data: str
    counts: dict[str, int | None]
    cache: Path
    work: Path

    def encoder(self, *, drop_path: float = 0.0, size: int | None = None) -> Encoder:
        """A new copy, without the mask token."""
        encoder = make_encoder(self.config, size or self.data.size, self.seed, drop_path=drop_path, masked=False)
        if self.weights is not None:
            state = {k: v for k, v in load_weights(self.weights).items() if k != "mask_token"}
            encoder.load_state_dict(on_grid(state, encoder.state_dict(), encoder.grid))
        choose_attention(encoder)
        return encoder

    def images(self, split: str) -> Images:
        return opened(self.data.name).load(self.data, split, self.cache).head(self.counts[split])


def in_batches(images: Images, batch: int, runtime: Runtime) -> Iterator[Tensor]:
    """All images in order, without augmentation, on the device: (batch, 3, S, S) each."""
    for start in range(0, len(images), batch):
        runtime.raise_if_stopping()
        yield images.plain(range(start, min(start + batch, len(images)))).to(runtime.device)


def labeled_micro_batches(batch: dict[str, Tensor], runtime: Runtime) -> list[dict[str, Any]]:
    """This rank's images and labels, and the share of one image in the loss of the step."""
    raw, label = batch["raw"], batch["label"]
    size, share = runtime.micro_batch or len(raw), 1 / (len(raw) * runtime.world)
    pairs = zip(raw.split(size), label.split(size), strict=True)
    return [{"raw": raw, "label": label, "share": share} for raw, label in pairs]


def predictions(
    of: Callable[[Tensor], Tensor], images: Images, batch: int, runtime: Runtime, *, bf16: bool, dim: int = 0
) -> Tensor:
    """What `of` makes of all images in order, joined along `dim`, on the CPU."""
    parts = []
    with torch.inference_mode(), torch.autocast(runtime.device.type, torch.bfloat16, enabled=bf16):
        for raw in in_batches(images, batch, runtime):
            parts.append(of(raw).cpu())
    return torch.cat(parts, dim)


def percent(correct: Tensor) -> float:
    return float(correct.double().mean() * 100)


def worse_than_uniform(losses: Tensor, classes: int) -> Tensor:
    """True where a head fits its own training samples worse than one that gives all classes the same: it diverged."""
    return ~(losses <= math.log(classes))  # not `>`: NaN too


def by_layer(layers: Iterable[int], best: Tensor) -> list[dict[str, float]]:
    """The best held-out score of each layer."""
    return [{"layer": layer, "val": float(score)} for layer, score in zip(layers, best, strict=True)]


def by_rate(rates: list[float], best: Tensor) -> dict[str, dict[str, float]]:
    """The best held-out score of each learning rate; an error if training diverged at all of them."""
    found = {f"{rate:g}": {"val": float(score)} for rate, score in zip(rates, best, strict=True)}
    check_any_converged(found)
    return found


def at_edge(what: str, chosen: float, tried: list[float]) -> list[str]:
    """A flag if the best value is the lowest or highest tried: a better one may lie outside."""
    if len(tried) > 1 and chosen in (min(tried), max(tried)):
        return [f"the best {what} {chosen:g} is the {'lowest' if chosen == min(tried) else 'highest'} tried"]
    return []


def neighbor_flags(chosen: int, tried: list[int]) -> list[str]:
    """Fewer than one neighbor cannot be tried: that is no edge."""
    return [] if chosen == 1 else at_edge("number of neighbors", chosen, list(map(float, tried)))


def rate_flags(by_lr: dict[str, dict[str, float]], chosen: float) -> list[str]:
    """Of learning rates at which training diverged, and of a best one at the edge of all that were tried."""
    lost = [rate for rate, measured in by_lr.items() if measured["val"] == WORST]
    flags = at_edge("learning rate", chosen, [float(rate) for rate in by_lr])
    return [*flags, f"diverged at learning rate {', '.join(lost)}"] if lost else flags


def check_any_converged(by_lr: dict[str, dict[str, float]]) -> None:
    if all(measured["val"] == WORST for measured in by_lr.values()):
        raise RunFailed(f"training diverged at every learning rate: {', '.join(by_lr)}")
