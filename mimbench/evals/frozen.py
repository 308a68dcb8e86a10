"""Heads on a frozen encoder, for all learning rates and layers side by side on one forward pass, with augmentation."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mimbench.data.loading import Keyed, training_stream
from mimbench.data.views import Images, normalize
from mimbench.evals.common import (
    WORST,
    EncoderUnderTest,
    by_layer,
    by_rate,
    in_batches,
    labeled_micro_batches,
    percent,
    predictions,
    rate_flags,
    worse_than_uniform,
)
from mimbench.evals.sweep import schedule_at
from mimbench.models.encoder import Encoder
from mimbench.pretrain.fit import Objective, fit
from mimbench.runtime import Runtime

BATCH = 250  # of the evaluation


class FrozenProbe(Objective):
    """The frozen encoder and a head per learning rate and layer; `heads.<rate>.<layer>` are their names."""

    heads: Any  # ModuleList of ModuleList

    def __init__(self, encoder: Encoder, rates: int, layers: tuple[int, ...], first: nn.Module) -> None:
        """`first`: a head; each begins with the same weights."""
        super().__init__()
        self.encoder, self.layers = encoder.requires_grad_(False), layers
        self.heads = nn.ModuleList([nn.ModuleList([copy.deepcopy(first) for _ in layers]) for _ in range(rates)])

    def read(self, tokens: Tensor) -> Tensor:
        """What a head sees of the raw output of its block, (B, 1 + N, D)."""
        return tokens

    def prepare(self, batch: dict[str, Tensor], step: int, runtime: Runtime) -> list[Any]:
        return labeled_micro_batches(batch, runtime)

    def logits(self, raw: Tensor) -> Tensor:
        """(rates, layers, B, classes)."""
        self.encoder.eval()
        with torch.no_grad():
            taps = self.encoder(normalize(raw), taps=self.layers).taps
            seen = [self.read(taps[layer]) for layer in self.layers]
        logits = [torch.stack([head(x) for head, x in zip(of_rate, seen, strict=True)]) for of_rate in self.heads]
        return torch.stack(logits).float()

    def losses(self, raw: Tensor, label: Tensor) -> Tensor:
        """(rates, layers), summed over the images."""
        logits = self.logits(raw)
        label = label.expand(*logits.shape[:2], -1)
        return F.cross_entropy(logits.flatten(0, 2), label.flatten(), reduction="none").view(label.shape).sum(-1)

    def forward(self, micro: dict[str, Any]) -> Tensor:
        losses = self.losses(micro["raw"], micro["label"])
        finite = torch.where(losses.isfinite(), losses, 0.0)  # a head that diverged stays alone
        return finite.sum() * micro["share"]  # each head has its own gradient, whatever the others are


def evaluate_heads(
    under_test: EncoderUnderTest,
    settings: dict[str, Any],
    runtime: Runtime,
    make: Callable[[int], FrozenProbe],
    seed: int,
) -> dict[str, Any]:
    """`make`: number of classes -> the probe. Learning rate and layer are chosen on held-out images."""
    train, val, test = _splits(under_test, settings)
    rates, model = settings["learning_rates"], make(train.classes)
    layers = model.layers
    schedule = schedule_at(settings, max(rates), len(train))
    stream = training_stream(Keyed(train, seed), len(train), schedule, seed, runtime)
    fit(model, stream, schedule, under_test.work / "heads", seed, runtime, lr_scale=lambda name: _lr_scale(name, rates))
    model.eval()
    bf16 = settings["precision"] == "bf16"
    held_out = predictions(lambda raw: model.logits(raw).argmax(-1), val, BATCH, runtime, bf16=bf16, dim=2)
    table = (held_out == torch.from_numpy(val.labels)).double().mean(-1) * 100  # (rates, layers)
    table[worse_than_uniform(mean_losses(model, train, runtime, bf16), train.classes)] = WORST
    rate, layer = divmod(int(table.argmax()), len(layers))
    by_lr = by_rate(rates, table.amax(1))
    tested = predictions(lambda raw: model.logits(raw)[rate, layer].argmax(-1), test, BATCH, runtime, bf16=bf16)
    return {
        "metrics": {"accuracy": percent(tested == torch.from_numpy(test.labels))},
        "values": {
            "chosen": {"layer": layers[layer], "lr": rates[rate]},
            "by_layer": by_layer(layers, table.amax(0)),
            "by_lr": by_lr,
            "val": table.tolist(),
        },
        "flags": rate_flags(by_lr, rates[rate]),
        "images": schedule.steps * schedule.batch,
    }


def _splits(under_test: EncoderUnderTest, settings: dict[str, Any]) -> Iterator[Images]:
    """With `area`, training views are random resized crops and flips, whatever the evaluation's data say."""
    if "area" in settings:
        smallest, largest = settings["area"]
        data = dataclasses.replace(under_test.data, crop=(smallest, largest), flip=True, shift=0, jitter=0.0)
        under_test = dataclasses.replace(under_test, data=data)
    return (under_test.images(split) for split in ("labeled", "val", "test"))


def _lr_scale(name: str, rates: list[float]) -> float:
    """Of the schedule's rate, which is the highest."""
    kind, _, inner = name.partition(".")
    return rates[int(inner.partition(".")[0])] / max(rates) if kind == "heads" else 1.0


@torch.inference_mode()
def mean_losses(model: FrozenProbe, images: Images, runtime: Runtime, bf16: bool) -> Tensor:
    """(rates, layers), on the CPU."""
    total = torch.zeros(len(model.heads), len(model.layers))
    labels = torch.from_numpy(images.labels).split(BATCH)
    for raw, label in zip(in_batches(images, BATCH, runtime), labels, strict=True):
        with torch.autocast(runtime.device.type, torch.bfloat16, enabled=bf16):
            total += model.losses(raw, label.to(raw.device)).cpu()
    return total / len(images)
