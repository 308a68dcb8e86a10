"""Linear heads on frozen features: every learning rate, layer and pooling trained at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mimbench.evals.common import worse_than_uniform

CPU = torch.device("cpu")
CHUNK = 4096  # samples whose logits, of every head, fit in memory


def train_heads(
    features: Tensor, targets: Callable[[Tensor], Tensor], reads: Tensor, settings: dict[str, Any], seed: int,
    device: torch.device = CPU,
) -> list[Tensor]:  # fmt: skip
    """For each learning rate, weights (depth, poolings, W + 1, classes): one head per layer and pooling.

    features: (depth, n, W), which stay on the CPU; targets: indices -> (n, classes), what a head should give to each
    class; reads: (poolings, W), 1 where the heads of a pooling read a feature. All heads step together and none sees
    another.
    """
    depth, count, _ = features.shape
    rates, batch = settings["learning_rates"], settings["batch"]
    classes, mask = targets(torch.zeros(1, dtype=torch.int64)).shape[-1], with_bias(reads)[:, :, None].to(device)
    shape = (depth, len(reads), mask.shape[1], classes)
    heads = [torch.zeros(shape, requires_grad=True, device=device) for _ in rates]
    groups = [{"params": [head], "lr": rate, "base": rate} for head, rate in zip(heads, rates, strict=True)]
    optimizer = torch.optim.AdamW(groups, weight_decay=settings["weight_decay"])
    steps = settings["epochs"] * -(-count // batch)
    rng = torch.Generator().manual_seed(seed)
    order = torch.empty(0, dtype=torch.int64)
    for step in range(steps):
        while len(order) < min(batch, count):
            order = torch.cat([order, torch.randperm(count, generator=rng)])
        index, order = order[:batch], order[batch:]
        for group in optimizer.param_groups:
            group["lr"] = group["base"] * 0.5 * (1 + math.cos(math.pi * step / steps))
        wanted = targets(index).to(device)
        loss = _losses(torch.stack(heads) * mask, features[:, index], wanted).sum() / wanted.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [(head * mask).detach() for head in heads]


def with_bias(features: Tensor) -> Tensor:
    return F.pad(features, (0, 1), value=1.0)


def logits(heads: Tensor, features: Tensor) -> Tensor:
    """(rates, depth, poolings, n, classes)."""
    return torch.einsum("lbd,rlpdc->rlpbc", with_bias(features.to(heads.device)), heads)


def _losses(heads: Tensor, features: Tensor, wanted: Tensor) -> Tensor:
    """(rates, depth, poolings): cross-entropy, summed over the samples."""
    return -(wanted * logits(heads, features).log_softmax(-1)).sum((-1, -2))


@torch.no_grad()
def diverged_heads(heads: list[Tensor], features: Tensor, targets: Callable[[Tensor], Tensor]) -> Tensor:
    """(rates, depth, poolings)."""
    stacked = torch.stack(heads)
    total, count = torch.zeros(stacked.shape[:3]), torch.zeros(())
    for index in torch.arange(features.shape[1]).split(CHUNK):
        wanted = targets(index).to(stacked.device)
        total += _losses(stacked, features[:, index], wanted).cpu()
        count += wanted.sum().cpu()
    return worse_than_uniform(total / count, stacked.shape[-1])
