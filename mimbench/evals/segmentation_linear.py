"""Linear segmentation: a linear layer on frozen patch features; layer and learning rate are chosen on held-out images."""

from __future__ import annotations

from typing import Any

import torch

from mimbench.data.sampling import derive
from mimbench.errors import RunFailed
from mimbench.evals import heads
from mimbench.evals.common import WORST, EncoderUnderTest, by_layer, by_rate, rate_flags
from mimbench.evals.dense import Dense
from mimbench.runtime import Runtime


def evaluate(under_test: EncoderUnderTest, settings: dict[str, Any], runtime: Runtime) -> dict[str, Any]:
    dense, rates = Dense(under_test, settings, runtime), settings["learning_rates"]
    weight = torch.ones(dense.classes)
    weight[0] = settings["first_class_weight"]
    wanted = dense.train.pixels / dense.encoder.grid.patch**2 * weight
    counted = wanted.sum(1) > 0  # not those of a first class whose weight is 0
    if not counted.any():
        raise RunFailed("the training images show the first class only, and its weight is 0")
    features, wanted = dense.train.features[:, counted], wanted[counted]
    targets = lambda index: wanted[index]
    everything = torch.ones(1, features.shape[-1])
    trained = heads.train_heads(features, targets, everything, settings, derive(dense.seed, "linear"), runtime.device)
    table = torch.full((len(rates), len(dense.layers)), WORST, dtype=torch.float64)
    failed = heads.diverged_heads(trained, features, targets)[..., 0]
    stacked = torch.stack(trained)
    for layer in range(len(dense.layers)):
        chunks = dense.val.features[layer].split(heads.CHUNK)
        predicted = torch.cat([heads.logits(stacked[:, layer : layer + 1], chunk[None])[:, 0, 0].argmax(-1).cpu()
                               for chunk in chunks], dim=1)  # fmt: skip
        for rate in range(len(rates)):
            if not failed[rate, layer]:
                table[rate, layer] = dense.held_out_miou(predicted[rate])
    by_lr = by_rate(rates, table.amax(1))
    rate, layer = divmod(int(table.argmax()), len(dense.layers))
    head = trained[rate][layer, 0]
    metrics = dense.test(layer, lambda found: heads.with_bias(found) @ head)
    return {
        "values": {
            "chosen": {"layer": dense.layers[layer], "lr": rates[rate]},
            "by_layer": by_layer(dense.layers, table.amax(0)),
            "by_lr": by_lr,
            "val": table.tolist(),
            **metrics.pop("detail"),
        },
        "metrics": metrics,
        "flags": rate_flags(by_lr, rates[rate]),
    }
