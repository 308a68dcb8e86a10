"""k nearest neighbors on frozen features: nothing is trained; layer and k are chosen on held-out images."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mimbench.evals.common import EncoderUnderTest, at_edge, percent
from mimbench.evals.features import frozen_splits
from mimbench.runtime import Runtime

CHUNK = 4096  # queries whose similarities to the whole bank fit in memory


def evaluate(under_test: EncoderUnderTest, settings: dict[str, Any], runtime: Runtime) -> dict[str, Any]:
    train, val, test = frozen_splits(under_test, runtime)
    bank = F.normalize(train.features, dim=-1)
    neighbors = [k for k in settings["neighbors"] if k <= len(train.labels)]

    def predict(features: Tensor, layer: int, neighbors: list[int]) -> Tensor:
        """(len(neighbors), n) classes."""
        nearby, labels = bank[layer].to(runtime.device), train.labels.to(runtime.device)
        chunks = (chunk.to(runtime.device) for chunk in F.normalize(features[layer], dim=-1).split(CHUNK))
        voted = (votes(q, nearby, labels, train.classes, neighbors, settings["temperature"]) for q in chunks)
        return torch.cat([v.argmax(-1).cpu() for v in voted], dim=1)

    table = torch.tensor([
        [percent(predicted == val.labels) for predicted in predict(val.features, layer, neighbors)]
        for layer in range(len(bank))
    ])  # (depth, len(neighbors))  # fmt: skip
    layer, column = divmod(int(table.flatten().argmax()), len(neighbors))
    k = neighbors[column]
    (predicted,) = predict(test.features, layer, [k])
    return {
        "metrics": {"accuracy": percent(predicted == test.labels)},
        "values": {
            "chosen": {"layer": layer, "neighbors": k},
            "by_layer": [{"layer": i, "val": float(row.max())} for i, row in enumerate(table)],
            "val": table.tolist(),
        },
        "flags": [] if k == 1 else at_edge("number of neighbors", k, neighbors),  # fewer than one cannot be tried
    }


def votes(
    queries: Tensor, bank: Tensor, labels: Tensor, classes: int, neighbors: list[int], temperature: float
) -> Tensor:
    """(len(neighbors), n, classes): the k most similar images vote, weighted by exp(cosine / temperature)."""
    similarity, index = (queries @ bank.T).topk(max(neighbors), dim=-1)  # the nearest first
    weight, voters = (similarity / temperature).exp(), labels[index]
    none = torch.zeros(len(queries), classes, device=queries.device)
    return torch.stack([none.scatter_add(1, voters[:, :k], weight[:, :k]) for k in neighbors])
