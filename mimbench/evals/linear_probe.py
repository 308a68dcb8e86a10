"""Linear probe: logistic regression on frozen features, every layer and every learning rate trained at once."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mimbench.data.sampling import derive
from mimbench.evals.common import EncoderUnderTest, at_edge, percent
from mimbench.evals.features import frozen_splits
from mimbench.runtime import Runtime

CPU = torch.device("cpu")
CHUNK = 4096  # images whose logits, of every head, fit in memory


def evaluate(under_test: EncoderUnderTest, settings: dict[str, Any], runtime: Runtime) -> dict[str, Any]:
    train, val, test = frozen_splits(under_test, runtime)
    rates = settings["learning_rates"]
    heads = train_heads(train.features, train.labels, train.classes, settings, under_test.seed, runtime.device)
    table = (predict(heads, val.features) == val.labels).double().mean(-1) * 100  # (rates, depth)
    rate, layer = divmod(int(table.flatten().argmax()), table.shape[1])  # ties go to the first
    return {
        "metrics": {"accuracy": percent(predict(heads, test.features)[rate, layer] == test.labels)},
        "values": {
            "chosen": {"layer": layer, "lr": rates[rate]},
            "by_layer": [{"layer": i, "val": float(column.max())} for i, column in enumerate(table.T)],
            "val": table.tolist(),
        },
        "flags": at_edge("learning rate", rates[rate], rates),
    }


def train_heads(
    features: Tensor, labels: Tensor, classes: int, settings: dict[str, Any], seed: int, device: torch.device = CPU
) -> list[Tensor]:
    """For each learning rate, weights (depth, 1 + D, classes): one head per layer, all stepped together.

    The features stay on the CPU; each batch is copied to the device.
    """
    depth, count, dim = features.shape
    rates, batch = settings["learning_rates"], settings["batch"]
    heads = [torch.zeros(depth, dim + 1, classes, requires_grad=True, device=device) for _ in rates]
    groups = [{"params": [head], "lr": rate, "base": rate} for head, rate in zip(heads, rates, strict=True)]
    optimizer = torch.optim.AdamW(groups, weight_decay=settings["weight_decay"])
    steps = settings["epochs"] * -(-count // batch)
    rng = torch.Generator().manual_seed(derive(seed, "linear_probe"))
    order = torch.empty(0, dtype=torch.int64)
    for step in range(steps):
        if len(order) < batch:
            order = torch.cat([order, torch.randperm(count, generator=rng)])
        index, order = order[:batch], order[batch:]
        for group in optimizer.param_groups:
            group["lr"] = group["base"] * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * step / steps)).item())
        scores = logits(heads, features[:, index])
        target = labels[index].to(device).expand(len(heads), depth, -1)
        loss = F.cross_entropy(scores.flatten(0, 2), target.flatten(), reduction="sum") / len(index)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [head.detach() for head in heads]


def logits(heads: list[Tensor], features: Tensor) -> Tensor:
    """(rates, depth, n, classes)."""
    weights = torch.stack(heads)
    with_bias = F.pad(features.to(weights.device), (0, 1), value=1.0)
    return torch.einsum("lbd,rldc->rlbc", with_bias, weights)


def predict(heads: list[Tensor], features: Tensor) -> Tensor:
    """(rates, depth, n) classes, on the CPU."""
    return torch.cat([logits(heads, chunk).argmax(-1).cpu() for chunk in features.split(CHUNK, dim=1)], dim=-1)
