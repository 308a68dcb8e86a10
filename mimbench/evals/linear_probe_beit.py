"""BEiT's linear probe: one linear classifier per block, trained jointly on the class token and the mean of the patches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mimbench.data.sampling import derive
from mimbench.evals.common import EncoderUnderTest
from mimbench.evals.frozen import FrozenProbe, evaluate_heads
from mimbench.models.encoder import Encoder
from mimbench.runtime import Runtime


class BlockProbe(FrozenProbe):
    def __init__(self, encoder: Encoder, rates: int, classes: int, seed: int) -> None:
        super().__init__(encoder, rates, tuple(range(encoder.depth)), linear_head(2 * encoder.dim, classes, seed))

    def read(self, tokens: Tensor) -> Tensor:
        return self.encoder.pooled(tokens, "both")


def linear_head(width: int, classes: int, seed: int) -> nn.Linear:
    """Weights from N(0, 0.01), as in BEiT's and MAE's probe."""
    head = nn.Linear(width, classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "linear head"))
        nn.init.normal_(head.weight, std=0.01)
        nn.init.zeros_(head.bias)
    return head


def evaluate(under_test: EncoderUnderTest, settings: dict[str, Any], runtime: Runtime) -> dict[str, Any]:
    encoder, rates = under_test.encoder(), len(settings["learning_rates"])
    make = lambda classes: BlockProbe(encoder, rates, classes, under_test.seed)
    return evaluate_heads(under_test, settings, runtime, make, derive(under_test.seed, "linear probe beit"))
