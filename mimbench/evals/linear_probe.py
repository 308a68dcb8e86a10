"""Linear probe: logistic regression on frozen features; pooling, layer and learning rate are chosen on held-out images."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mimbench.data.sampling import derive
from mimbench.evals import heads
from mimbench.evals.common import WORST, EncoderUnderTest, by_layer, by_rate, percent, rate_flags
from mimbench.evals.features import POOLINGS, chosen_part, frozen_splits
from mimbench.runtime import Runtime


def evaluate(under_test: EncoderUnderTest, settings: dict[str, Any], runtime: Runtime) -> dict[str, Any]:
    train, val, test = frozen_splits(under_test)
    rates = settings["learning_rates"]
    targets = lambda index: F.one_hot(train.labels[index], train.classes).float()
    seed = derive(under_test.seed, "linear_probe")
    trained = heads.train_heads(train.features, targets, reads(train.features), settings, seed, runtime.device)
    failed = heads.diverged_heads(trained, train.features, targets)
    table = (predict(trained, val.features) == val.labels).double().mean(-1) * 100
    table[failed] = WORST  # (rates, depth, poolings)
    rate, layer, pooling = (int(i) for i in torch.unravel_index(table.argmax(), table.shape))  # ties go to the first
    best = trained[rate][layer, pooling][None, None]
    by_lr = by_rate(rates, table.amax((1, 2)))
    return {
        "metrics": {"accuracy": percent(predict([best], test.features[layer][None])[0, 0, 0] == test.labels)},
        "values": {
            "chosen": {"layer": layer, "lr": rates[rate], "pooling": POOLINGS[pooling]},
            "by_layer": by_layer(range(table.shape[1]), table.amax((0, 2))),
            "by_lr": by_lr,
            "val": table.tolist(),
        },
        "flags": rate_flags(by_lr, rates[rate]),
    }  # fmt: skip


def reads(features: Tensor) -> Tensor:
    """(poolings, W): the features that each pooling consists of."""
    used = torch.zeros(len(POOLINGS), features.shape[-1])
    for row, pooling in zip(used, POOLINGS, strict=True):
        chosen_part(row, pooling).fill_(1)
    return used


def predict(trained: list[Tensor], features: Tensor) -> Tensor:
    """(rates, depth, poolings, n) classes, on the CPU."""
    stacked = torch.stack(trained)
    chunks = features.split(heads.CHUNK, dim=1)
    return torch.cat([heads.logits(stacked, chunk).argmax(-1).cpu() for chunk in chunks], dim=-1)
