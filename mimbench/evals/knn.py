"""k nearest neighbors on frozen features: nothing is trained; pooling, layer and k are chosen."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mimbench.evals.common import EncoderUnderTest, by_layer, neighbor_flags, percent
from mimbench.evals.features import POOLINGS, Split, chosen_part, frozen_splits
from mimbench.runtime import Runtime

CHUNK = 4096  # queries whose similarities to the whole bank fit in memory


def evaluate(under_test: EncoderUnderTest, settings: dict[str, Any], runtime: Runtime) -> dict[str, Any]:
    train, val, test = frozen_splits(under_test)
    neighbors = [k for k in settings["neighbors"] if k <= len(train.labels)]

    def predict(split: Split, layer: int, pooling: str, neighbors: list[int]) -> Tensor:
        """(len(neighbors), n) classes."""
        bank, queries = (F.normalize(chosen_part(part.features[layer], pooling), dim=-1) for part in (train, split))
        nearby, labels = bank.to(runtime.device), train.labels.to(runtime.device)
        voted = (votes(q.to(runtime.device), nearby, labels, train.classes, neighbors, settings["temperature"])
                 for q in queries.split(CHUNK))  # fmt: skip
        return torch.cat([v.argmax(-1).cpu() for v in voted], dim=1)

    table = torch.tensor([
        [[percent(predicted == val.labels) for predicted in predict(val, layer, pooling, neighbors)] for pooling in POOLINGS]
        for layer in range(len(train.features))
    ])  # (depth, poolings, len(neighbors))  # fmt: skip
    layer, pooling, column = (int(i) for i in torch.unravel_index(table.argmax(), table.shape))
    k = neighbors[column]
    (predicted,) = predict(test, layer, POOLINGS[pooling], [k])
    return {
        "metrics": {"accuracy": percent(predicted == test.labels)},
        "values": {
            "chosen": {"layer": layer, "pooling": POOLINGS[pooling], "neighbors": k},
            "by_layer": by_layer(range(len(table)), table.amax((1, 2))),
            "val": table.tolist(),
        },
        "flags": neighbor_flags(k, neighbors),
    }


def votes(
    queries: Tensor, bank: Tensor, labels: Tensor, classes: int, neighbors: list[int], temperature: float
) -> Tensor:
    """(len(neighbors), n, classes): the k most similar images vote, weighted by exp(cosine / temperature)."""
    similarity, index = (queries @ bank.T).topk(max(neighbors), dim=-1)  # the nearest first
    weight, voters = (similarity / temperature).exp(), labels[index]
    none = torch.zeros(len(queries), classes, device=queries.device)
    return torch.stack([none.scatter_add(1, voters[:, :k], weight[:, :k]) for k in neighbors])
