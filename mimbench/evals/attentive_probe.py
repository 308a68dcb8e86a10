"""Attentive probe: one cross-attention block with a learned query on frozen tokens, then a linear head.

The heads of all layers and learning rates are trained side by side on one forward pass of the encoder.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mimbench.data.loading import Keyed, training_stream
from mimbench.data.sampling import derive
from mimbench.data.views import Images, normalize
from mimbench.evals.common import (
    WORST,
    EncoderUnderTest,
    by_layer,
    by_rate,
    in_batches,
    labeled_micro_batches,
    percent,
    predictions,
    rate_flags,
    worse_than_uniform,
)  # fmt: skip
from mimbench.evals.features import offered_blocks
from mimbench.evals.sweep import schedule_at
from mimbench.models.encoder import Encoder
from mimbench.pretrain.fit import Objective, fit
from mimbench.runtime import Runtime

BATCH = 250  # of the evaluation


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


class AttentiveProbe(Objective):
    """The frozen encoder and a head per learning rate and layer; `heads.<rate>.<layer>` are their names."""

    heads: Any  # ModuleList of ModuleList of AttentiveHead

    def __init__(self, encoder: Encoder, rates: int, layers: tuple[int, ...], classes: int, seed: int) -> None:
        super().__init__()
        self.encoder, self.layers = encoder.requires_grad_(False), layers
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "attentive probe"))
            first = AttentiveHead(encoder.dim, encoder.config.heads, classes)
        new = lambda: _copied(first, encoder.dim, encoder.config.heads, classes)  # each begins with the same weights
        self.heads = nn.ModuleList([nn.ModuleList([new() for _ in layers]) for _ in range(rates)])

    def prepare(self, batch: dict[str, Tensor], step: int, runtime: Runtime) -> list[Any]:
        return labeled_micro_batches(batch, runtime)

    def logits(self, raw: Tensor) -> Tensor:
        """(rates, layers, B, classes)."""
        self.encoder.eval()
        with torch.no_grad():
            taps = self.encoder(normalize(raw), taps=self.layers).taps
        logits = [torch.stack([head(taps[layer]) for head, layer in zip(of_rate, self.layers, strict=True)])
                  for of_rate in self.heads]  # fmt: skip
        return torch.stack(logits).float()

    def losses(self, raw: Tensor, label: Tensor) -> Tensor:
        """(rates, layers), summed over the images."""
        logits = self.logits(raw)
        label = label.expand(*logits.shape[:2], -1)
        return F.cross_entropy(logits.flatten(0, 2), label.flatten(), reduction="none").view(label.shape).sum(-1)

    def forward(self, micro: dict[str, Any]) -> Tensor:
        losses = self.losses(micro["raw"], micro["label"])
        finite = torch.where(losses.isfinite(), losses, 0.0)  # a head that diverged stays alone
        return finite.sum() * micro["share"]  # each head has its own gradient, whatever the others are


def _copied(first: AttentiveHead, dim: int, heads: int, classes: int) -> AttentiveHead:
    head = AttentiveHead(dim, heads, classes)
    head.load_state_dict(first.state_dict())
    return head


def evaluate(under_test: EncoderUnderTest, settings: dict[str, Any], runtime: Runtime) -> dict[str, Any]:
    train, val, test = (under_test.images(split) for split in ("labeled", "val", "test"))
    rates, seed = settings["learning_rates"], derive(under_test.seed, "attentive probe")
    encoder = under_test.encoder()
    layers = offered_blocks(encoder)
    model = AttentiveProbe(encoder, len(rates), layers, train.classes, under_test.seed)
    schedule = schedule_at(settings, max(rates), len(train))
    stream = training_stream(Keyed(train, seed), len(train), schedule, seed, runtime)
    fit(model, stream, schedule, under_test.work / "heads", seed, runtime, lr_scale=lambda name: _lr_scale(name, rates))
    model.eval()
    bf16 = settings["precision"] == "bf16"
    held_out = predictions(lambda raw: model.logits(raw).argmax(-1), val, BATCH, runtime, bf16=bf16, dim=2)
    table = (held_out == torch.from_numpy(val.labels)).double().mean(-1) * 100  # (rates, layers)
    table[worse_than_uniform(mean_losses(model, train, runtime, bf16), train.classes)] = WORST
    rate, layer = divmod(int(table.argmax()), len(layers))
    by_lr = by_rate(rates, table.amax(1))
    tested = predictions(lambda raw: model.logits(raw)[rate, layer].argmax(-1), test, BATCH, runtime, bf16=bf16)
    return {
        "metrics": {"accuracy": percent(tested == torch.from_numpy(test.labels))},
        "values": {
            "chosen": {"layer": layers[layer], "lr": rates[rate]},
            "by_layer": by_layer(layers, table.amax(0)),
            "by_lr": by_lr,
            "val": table.tolist(),
        },
        "flags": rate_flags(by_lr, rates[rate]),
        "images": schedule.steps * schedule.batch,
    }


def _lr_scale(name: str, rates: list[float]) -> float:
    """Of the schedule's rate, which is the highest."""
    kind, _, inner = name.partition(".")
    return rates[int(inner.partition(".")[0])] / max(rates) if kind == "heads" else 1.0


@torch.inference_mode()
def mean_losses(model: AttentiveProbe, images: Images, runtime: Runtime, bf16: bool) -> Tensor:
    """(rates, layers), on the CPU."""
    total = torch.zeros(len(model.heads), len(model.layers))
    labels = torch.from_numpy(images.labels).split(BATCH)
    for raw, label in zip(in_batches(images, BATCH, runtime), labels, strict=True):
        with torch.autocast(runtime.device.type, torch.bfloat16, enabled=bf16):
            total += model.losses(raw, label.to(raw.device)).cpu()
    return total / len(images)
