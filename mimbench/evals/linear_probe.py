"""Linear probe: logistic regression on frozen features, every layer and every learning rate trained at once."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mimbench.data.sampling import derive
from mimbench.evals.common import Subject, at_edge, percent
from mimbench.evals.features import extract, standardise
from mimbench.pretrain.fit import Place

CPU = torch.device("cpu")
AT_A_TIME = 4096  # images whose scores, of every head, fit in memory


def evaluate(subject: Subject, settings: dict[str, Any], place: Place) -> dict[str, Any]:
    train, val, test = (subject.images(split) for split in ("labelled", "val", "test"))
    encoder = subject.encoder()
    features = standardise(*(extract(encoder, split, place) for split in (train, val, test)))
    labels = [torch.from_numpy(split.labels) for split in (train, val, test)]
    heads = train_heads(features[0], labels[0], train.classes, settings, subject.seed, place.device)
    chosen, table = choose(heads, features[1], labels[1], settings["learning_rates"])
    layer, rate = chosen
    accuracy = percent(answers(heads, features[2])[rate, layer] == labels[2])
    rates = settings["learning_rates"]
    by_layer = [{"layer": i, "val": float(table[:, i].max())} for i in range(table.shape[1])]
    return {
        "metrics": {"accuracy": accuracy},
        "values": {"chosen": {"layer": layer, "lr": rates[rate]}, "by_layer": by_layer, "val": table.tolist()},
        "flags": at_edge("learning rate", rates[rate], rates),
    }


def train_heads(
    features: Tensor, labels: Tensor, classes: int, settings: dict[str, Any], seed: int, device: torch.device = CPU
) -> list[Tensor]:
    """For each learning rate, weights (depth, 1 + D, classes): one head a layer, all stepped together.

    The features stay where they are, a batch at a time goes to the device.
    """
    depth, count, dim = features.shape
    heads = [
        torch.zeros(depth, dim + 1, classes, requires_grad=True, device=device) for _ in settings["learning_rates"]
    ]
    groups = [{"params": [h], "lr": r, "base": r} for h, r in zip(heads, settings["learning_rates"], strict=True)]
    optimizer = torch.optim.AdamW(groups, weight_decay=settings["weight_decay"])
    steps = settings["epochs"] * -(-count // settings["batch"])
    rng = torch.Generator().manual_seed(derive(seed, "linear_probe"))
    order = torch.empty(0, dtype=torch.int64)
    for step in range(steps):
        if len(order) < settings["batch"]:
            order = torch.cat([order, torch.randperm(count, generator=rng)])
        index, order = order[: settings["batch"]], order[settings["batch"] :]
        for group in optimizer.param_groups:
            group["lr"] = group["base"] * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * step / steps)).item())
        scores = logits(heads, features[:, index])
        target = labels[index].to(device).expand(len(heads), depth, -1)
        loss = F.cross_entropy(scores.flatten(0, 2), target.flatten(), reduction="sum") / len(index)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [h.detach() for h in heads]


def _with_bias(features: Tensor) -> Tensor:
    return F.pad(features, (0, 1), value=1.0)


def logits(heads: list[Tensor], features: Tensor) -> Tensor:
    """(rates, depth, n, classes)."""
    weights = torch.stack(heads)
    return torch.einsum("lbd,rldc->rlbc", _with_bias(features.to(weights.device)), weights)


def answers(heads: list[Tensor], features: Tensor) -> Tensor:
    """(rates, depth, n) classes, on the CPU."""
    return torch.cat([logits(heads, some).argmax(-1).cpu() for some in features.split(AT_A_TIME, dim=1)], dim=-1)


def choose(heads: list[Tensor], features: Tensor, labels: Tensor, rates: list[float]) -> tuple[tuple[int, int], Tensor]:
    """The (layer, index of rate) best on held-out images, ties to the first; and the accuracies (rates, depth)."""
    table = (answers(heads, features) == labels).double().mean(-1) * 100
    best = int(table.flatten().argmax())
    return (best % table.shape[1], best // table.shape[1]), table
