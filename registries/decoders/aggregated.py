"""BEiT-2's patch aggregation."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from mimbench.models.blocks import transformer_block
from mimbench.parts import Decoder, Encoded, Masks, PatchGrid
from mimbench.registry import DECODERS


@DECODERS.register_module("aggregated")
class Aggregated(Decoder):
    """BEiT-2's aggregation head: the last class token and an inner block's patches through a few blocks, then a shared head.

    So the class token must carry what the inner patches lack. The result passes the encoder's last norm and the decoder of
    the term that `same_as` names. `layer` counts blocks from 1. Its blocks are plain ones, without the encoder's relative
    positions and LayerScale.
    """

    version = 1
    restores_grid = False
    needs_last = True

    def __init__(self, layer: int = 9, depth: int = 2, heads: int = 12) -> None:
        super().__init__()
        if min(layer, depth, heads) < 1:
            raise ValueError(f"layer, depth and heads must be at least 1, not {layer}, {depth} and {heads}.")
        self.layer, self.depth, self.heads = layer, depth, heads

    def build(self, dim: int, width: int, grid: PatchGrid, last: Decoder | None = None) -> None:
        if last is None:
            raise ValueError("decoder 'aggregated' predicts with another term's decoder: name that term in same_as.")
        self.blocks = nn.ModuleList(transformer_block(dim, self.heads) for _ in range(self.depth))
        self.last = last  # the same module: its parameters are trained by both terms

    def check(self, dim: int) -> None:
        if dim % self.heads:
            raise ValueError(f"{self.heads} heads do not divide the dimension {dim}.")

    def taps(self, depth: int) -> tuple[int, ...]:
        if self.layer >= depth:
            raise ValueError(f"layer {self.layer} must lie before the last of {depth} blocks.")
        return (self.layer - 1, depth - 1)

    def forward(self, encoded: Encoded, masks: Masks | None) -> Tensor:
        inner, last = (
            encoded.taps[block] for block in sorted(encoded.taps) if block in self.taps(max(encoded.taps) + 1)
        )
        x = torch.cat([last[:, :1], inner[:, 1:]], dim=1)
        for block in self.blocks:
            x = block(x)
        x = encoded.norm(x)
        return self.last(replace(encoded, patches=x[:, 1:], cls=x[:, 0]), masks)
