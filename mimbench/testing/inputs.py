"""What an encoder and a term would pass to a part."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mimbench.parts import Decoder, Encoded, Masks, PatchGrid, picked


class LinearHead(Decoder):
    """The head of a teacher, and the decoder that another one predicts with."""

    version, restores_grid = 1, False

    def build(self, dim: int, width: int, grid: PatchGrid, last: Decoder | None = None) -> None:
        self.project = nn.Linear(dim, width)

    def rows(self, x: Tensor) -> Tensor:
        return self.project(x)

    def forward(self, encoded: Encoded, masks: Masks | None) -> Tensor:
        return self.rows(picked(encoded, masks))


class LinearTeacher:
    """In place of a frozen encoder: features that are linear in the mean colors of the patches."""

    def __init__(self, grid: PatchGrid, dim: int, depth: int) -> None:
        self.grid, self.dim, self.depth = grid, dim, depth
        self.weight = torch.sin(torch.arange(1.0, 1 + grid.channels * dim)).view(grid.channels, dim)

    def __call__(self, images: Tensor, masks: Masks | None = None, taps: tuple[int, ...] = ()) -> Encoded:
        means = F.adaptive_avg_pool2d(images, (self.grid.rows, self.grid.columns)).flatten(2).transpose(1, 2)
        tokens = torch.cat([means.mean(1, keepdim=True), means], dim=1) @ self.weight  # (B, 1 + N, D)
        return Encoded(tokens[:, 1:], tokens[:, 0], None, {block: tokens / (1 + block) for block in taps})


def encoded_of(
    grid: PatchGrid, dim: int, taps: Iterable[int] = (), *, dropped: bool = False, batch: int = 3
) -> tuple[Encoded, Masks]:
    """An encoder's output for random masks of half the patches."""
    rng = torch.Generator().manual_seed(0)
    order = torch.rand(batch, grid.count, generator=rng).argsort(1)
    count = grid.count // 2
    hidden = torch.zeros(batch, grid.count, dtype=torch.bool).scatter_(1, order[:, :count], True)
    kept = (~hidden).nonzero()[:, 1].view(batch, -1) if dropped else None
    visible = grid.count - count if dropped else grid.count
    patches = torch.randn(batch, visible, dim, generator=rng)
    predicted = hidden.flatten().nonzero().squeeze(1)
    # the step taps what any term reads: block 0 may belong to another one
    tapped = {block: torch.randn(batch, 1 + visible, dim, generator=rng) for block in sorted({0, *taps})}
    cls = torch.randn(batch, dim, generator=rng)
    encoded = Encoded(patches, cls, kept, tapped, norm=lambda x: F.layer_norm(x, x.shape[-1:]))
    return encoded, Masks(hidden, predicted, kept, len(predicted))


def first(encoded: Encoded, masks: Masks | None, images: int) -> tuple[Encoded, Any]:
    """The first images of a batch."""
    kept = None if encoded.kept is None else encoded.kept[:images]
    taps = {block: tap[:images] for block, tap in encoded.taps.items()}
    encoded = replace(encoded, patches=encoded.patches[:images], cls=encoded.cls[:images], kept=kept, taps=taps)
    if masks is None:
        return encoded, None
    blocks = None if masks.blocks is None else masks.blocks[:images]
    predicted = masks.predicted[masks.predicted < images * masks.masked.shape[1]]
    return encoded, replace(masks, masked=masks.masked[:images], predicted=predicted, kept=kept, blocks=blocks)
