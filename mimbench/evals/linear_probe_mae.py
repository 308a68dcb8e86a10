"""MAE's linear probe: batch norm without scale and shift, and a linear classifier, on the output of the encoder; LARS."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mimbench.config.schema import ScheduleConfig
from mimbench.data.sampling import derive
from mimbench.evals.common import EncoderUnderTest
from mimbench.evals.frozen import FrozenProbe, evaluate_heads
from mimbench.evals.linear_probe_beit import linear_head
from mimbench.models.encoder import Encoder
from mimbench.pretrain.lars import LARS
from mimbench.runtime import Runtime


class OutputProbe(FrozenProbe):
    def __init__(self, encoder: Encoder, settings: dict[str, Any], classes: int, seed: int) -> None:
        norm = nn.SyncBatchNorm if torch.distributed.is_initialized() else nn.BatchNorm1d
        first = nn.Sequential(norm(encoder.dim, affine=False, eps=1e-6), linear_head(encoder.dim, classes, seed))
        super().__init__(encoder, len(settings["learning_rates"]), (encoder.depth - 1,), first)
        self.settings = settings

    def read(self, tokens: Tensor) -> Tensor:
        return self.encoder.pooled(self.encoder.body.norm(tokens), self.settings["pooling"])

    def optimizer(self, groups: list[dict[str, Any]], schedule: ScheduleConfig, *, fused: bool) -> Optimizer:
        return LARS(groups, schedule.lr, momentum=self.settings["momentum"], trust=self.settings["trust"])


def evaluate(under_test: EncoderUnderTest, settings: dict[str, Any], runtime: Runtime) -> dict[str, Any]:
    encoder = under_test.encoder()
    make = lambda classes: OutputProbe(encoder, settings, classes, under_test.seed)
    return evaluate_heads(under_test, settings, runtime, make, derive(under_test.seed, "linear probe mae"))
