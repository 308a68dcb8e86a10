"""Attentive probe: one cross-attention block with a learned query on frozen tokens, then a linear head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mimbench.data.sampling import derive
from mimbench.evals.common import EncoderUnderTest
from mimbench.evals.features import offered_blocks
from mimbench.evals.frozen import FrozenProbe, evaluate_heads
from mimbench.models.encoder import Encoder
from mimbench.runtime import Runtime


class AttentiveHead(nn.Module):
    """Tokens (B, N, D) of one layer -> logits. A pre-norm block, as in V-JEPA's probe."""

    def __init__(self, dim: int, heads: int, classes: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.zeros(dim))  # a vector: like other tokens it does not decay
        self.norm_tokens, self.norm_pooled, self.norm_out = (nn.LayerNorm(dim, eps=1e-6) for _ in range(3))
        self.q, self.kv, self.proj = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.head = nn.Linear(dim, classes)
        nn.init.trunc_normal_(self.query, std=0.02)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        split = lambda x: x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, n, D / heads)
        keys, values = map(split, self.kv(self.norm_tokens(tokens)).chunk(2, dim=-1))
        query = split(self.q(self.query[None, None])).expand(len(tokens), -1, -1, -1)
        weights = (query @ keys.transpose(-1, -2) * keys.shape[-1] ** -0.5).softmax(-1)
        x = self.query + self.proj((weights @ values).transpose(1, 2).flatten(2)[:, 0])  # (B, D)
        x = x + self.mlp(self.norm_pooled(x))
        return self.head(self.norm_out(x))


class AttentiveProbe(FrozenProbe):
    def __init__(self, encoder: Encoder, rates: int, layers: tuple[int, ...], classes: int, seed: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "attentive probe"))
            first = AttentiveHead(encoder.dim, encoder.config.heads, classes)
        super().__init__(encoder, rates, layers, first)


def evaluate(under_test: EncoderUnderTest, settings: dict[str, Any], runtime: Runtime) -> dict[str, Any]:
    encoder, rates = under_test.encoder(), len(settings["learning_rates"])
    make = lambda classes: AttentiveProbe(encoder, rates, offered_blocks(encoder), classes, under_test.seed)
    return evaluate_heads(under_test, settings, runtime, make, derive(under_test.seed, "attentive probe"))
