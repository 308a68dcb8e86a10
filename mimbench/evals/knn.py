"""k nearest neighbours on frozen features: nothing is trained; layer and k are chosen on held-out images."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mimbench.evals.common import Subject, at_edge, percent
from mimbench.evals.features import extract, standardise
from mimbench.pretrain.fit import Place


def evaluate(subject: Subject, settings: dict[str, Any], place: Place) -> dict[str, Any]:
    train, val, test = (subject.images(split) for split in ("labelled", "val", "test"))
    encoder = subject.encoder()
    bank, held_out, final = (
        F.normalize(f, dim=-1) for f in standardise(*(extract(encoder, s, place) for s in (train, val, test)))
    )
    labels = torch.from_numpy(train.labels)
    neighbours = [k for k in settings["neighbours"] if k <= len(labels)]
    table = torch.stack(
        [
            _accuracies(held_out[i], bank[i], labels, val.labels, train.classes, neighbours, settings)
            for i in range(len(bank))
        ]
    )  # (depth, neighbours)
    best = int(table.flatten().argmax())
    layer, column = best // len(neighbours), best % len(neighbours)
    votes = _votes(final[layer], bank[layer], labels, train.classes, neighbours[column], settings["temperature"])
    return {
        "metrics": {"accuracy": percent(votes.argmax(-1) == torch.from_numpy(test.labels))},
        "values": {
            "chosen": {"layer": layer, "neighbours": neighbours[column]},
            "by_layer": [{"layer": i, "val": float(row.max())} for i, row in enumerate(table)],
            "val": table.tolist(),
        },
        "flags": at_edge("number of neighbours", neighbours[column], neighbours),
    }


def _accuracies(
    queries: Tensor,
    bank: Tensor,
    labels: Tensor,
    truth: Any,
    classes: int,
    neighbours: list[int],
    settings: dict[str, Any],
) -> Tensor:
    answers = torch.from_numpy(truth)
    votes = [_votes(queries, bank, labels, classes, k, settings["temperature"]) for k in neighbours]
    return torch.tensor([percent(v.argmax(-1) == answers) for v in votes])


def _votes(queries: Tensor, bank: Tensor, labels: Tensor, classes: int, k: int, temperature: float) -> Tensor:
    """(n, classes): the k most similar images vote, weighted by exp(cosine / temperature)."""
    similarity, index = (queries @ bank.T).topk(k, dim=-1)
    weight = (similarity / temperature).exp()
    return torch.zeros(len(queries), classes).scatter_add_(1, labels[index], weight)
