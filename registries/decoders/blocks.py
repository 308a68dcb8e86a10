"""CAE's decoder."""

from typing import Any

from torch import Tensor, nn

from mimbench.models.blocks import initialize_xavier, transformer_block
from mimbench.models.positions import sincos
from mimbench.parts import Decoder, Encoded, Masks, PatchGrid, picked
from mimbench.registry import DECODERS


@DECODERS.register_module("blocks")
class Blocks(Decoder):
    """CAE's decoder: transformer blocks over the predicted positions alone, then a linear layer. Meant for `after: TERM`.

    Every image must have the same number of predicted positions.
    """

    version = 1
    restores_grid = False
    needs_constant_count = True  # of the masker
    blocks: Any
    positions: Tensor

    def __init__(self, depth: int = 4, heads: int = 12, layer_scale: float = 0.1) -> None:
        super().__init__()
        if min(depth, heads) < 1 or layer_scale <= 0:
            raise ValueError(
                f"depth and heads must be at least 1, layer_scale above 0, not {depth}, {heads} and {layer_scale}."
            )
        self.depth, self.heads, self.layer_scale = depth, heads, layer_scale

    def check(self, dim: int) -> None:
        if dim % self.heads or dim % 4:
            raise ValueError(f"{self.heads} heads and 4 must divide the dimension, which is {dim}.")

    def build(self, dim: int, width: int, grid: PatchGrid, last: Decoder | None = None) -> None:
        self.register_buffer("positions", sincos(grid.rows, grid.columns, dim, cls=False), persistent=False)
        block = lambda: transformer_block(dim, self.heads, layer_scale=self.layer_scale)
        self.blocks = nn.ModuleList(block() for _ in range(self.depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.project = nn.Linear(dim, width)
        self.apply(initialize_xavier)

    def forward(self, encoded: Encoded, masks: Masks | None) -> Tensor:
        assert masks is not None
        x = picked(encoded, masks) + self.positions[masks.predicted % len(self.positions)]  # (M, D)
        x = x.view(len(encoded.cls), -1, x.shape[1])  # (B, P, D)
        for block in self.blocks:
            x = block(x)
        return self.project(self.norm(x)).flatten(0, 1)
