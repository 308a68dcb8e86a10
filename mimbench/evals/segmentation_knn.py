"""k-NN segmentation: for each patch the nearest labeled patches vote with their majority class."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mimbench.data.sampling import generator
from mimbench.errors import RunFailed
from mimbench.evals.common import EncoderUnderTest, by_layer, neighbor_flags
from mimbench.evals.dense import Dense
from mimbench.evals.knn import votes
from mimbench.runtime import Runtime

CHUNK = 4096  # patches whose similarities to the whole bank fit in memory


def evaluate(under_test: EncoderUnderTest, settings: dict[str, Any], runtime: Runtime) -> dict[str, Any]:
    dense = Dense(under_test, settings, runtime)
    drawn = torch.randperm(len(dense.train.pixels), generator=generator(dense.seed, "bank"))[: settings["bank"]]
    index = drawn.sort().values
    labels = dense.train.pixels[index].argmax(1).to(runtime.device)
    neighbors = [k for k in settings["neighbors"] if k <= len(index)]
    if not neighbors:
        least = min(settings["neighbors"])
        raise RunFailed(f"the bank has {len(index)} labeled patches, and the least number of neighbors is {least}")

    def vote(features: Tensor, layer: int, neighbors: list[int]) -> Tensor:
        """(len(neighbors), n, classes)."""
        bank = F.normalize(dense.train.features[layer, index].to(runtime.device), dim=-1)
        chunks = F.normalize(features.to(runtime.device), dim=-1).split(CHUNK)
        return torch.cat(
            [votes(q, bank, labels, dense.classes, neighbors, settings["temperature"]) for q in chunks], dim=1
        )

    table = torch.tensor([
        [dense.held_out_miou(found.argmax(-1).cpu()) for found in vote(dense.val.features[layer], layer, neighbors)]
        for layer in range(len(dense.layers))
    ])  # (layers, len(neighbors))  # fmt: skip
    layer, column = divmod(int(table.argmax()), len(neighbors))
    k = neighbors[column]
    metrics = dense.test(layer, lambda found: F.normalize(vote(found, layer, [k])[0], p=1, dim=-1))
    return {
        "values": {
            "chosen": {"layer": dense.layers[layer], "neighbors": k},
            "by_layer": by_layer(dense.layers, table.amax(1)),
            "val": table.tolist(),
            **metrics.pop("detail"),
        },
        "metrics": metrics,
        "flags": neighbor_flags(k, neighbors),
    }
