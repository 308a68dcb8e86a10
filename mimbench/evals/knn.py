"""k nearest neighbours on frozen features: nothing is trained; layer and k are chosen on held-out images."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mimbench.evals.common import Subject, at_edge, percent
from mimbench.evals.features import extract, standardise
from mimbench.pretrain.fit import Place

QUERIES = 4096  # at a time: their similarities to the whole bank fit in memory


def evaluate(subject: Subject, settings: dict[str, Any], place: Place) -> dict[str, Any]:
    train, val, test = (subject.images(split) for split in ("labelled", "val", "test"))
    encoder = subject.encoder()
    bank, held_out, final = (
        F.normalize(f, dim=-1) for f in standardise(*(extract(encoder, s, place) for s in (train, val, test)))
    )
    labels = torch.from_numpy(train.labels)
    neighbours = [k for k in settings["neighbours"] if k <= len(labels)]

    def answers(split: Tensor, layer: int, counts: list[int]) -> Tensor:
        """(len(counts), n) classes."""
        near, of_bank = bank[layer].to(place.device), labels.to(place.device)
        parts = (some.to(place.device) for some in split[layer].split(QUERIES))
        voted = (votes(some, near, of_bank, train.classes, counts, settings["temperature"]) for some in parts)
        return torch.cat([v.argmax(-1).cpu() for v in voted], dim=1)

    truth = torch.from_numpy(val.labels)
    table = torch.tensor(
        [[percent(a == truth) for a in answers(held_out, layer, neighbours)] for layer in range(len(bank))]
    )  # (depth, neighbours)
    best = int(table.flatten().argmax())
    layer, column = best // len(neighbours), best % len(neighbours)
    (final_answers,) = answers(final, layer, [neighbours[column]])
    return {
        "metrics": {"accuracy": percent(final_answers == torch.from_numpy(test.labels))},
        "values": {
            "chosen": {"layer": layer, "neighbours": neighbours[column]},
            "by_layer": [{"layer": i, "val": float(row.max())} for i, row in enumerate(table)],
            "val": table.tolist(),
        },
        # beyond one neighbour there is nothing to try
        "flags": [] if neighbours[column] == 1 else at_edge("number of neighbours", neighbours[column], neighbours),
    }


def votes(
    queries: Tensor, bank: Tensor, labels: Tensor, classes: int, neighbours: list[int], temperature: float
) -> Tensor:
    """(len(neighbours), n, classes): the k most similar images vote, weighted by exp(cosine / temperature)."""
    similarity, index = (queries @ bank.T).topk(max(neighbours), dim=-1)  # the nearest first
    weight, voters = (similarity / temperature).exp(), labels[index]
    none = torch.zeros(len(queries), classes, device=queries.device)
    return torch.stack([none.scatter_add(1, voters[:, :k], weight[:, :k]) for k in neighbours])
