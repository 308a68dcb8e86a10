"""I-JEPA's predictor."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from mimbench.models.blocks import transformer_block
from mimbench.models.positions import sincos
from mimbench.parts import Decoder, Encoded, Masks, PatchGrid
from mimbench.registry import DECODERS


@DECODERS.register_module("predictor")
class Predictor(Decoder):
    """I-JEPA's predictor: context patches and mask tokens at a block's places through a narrow transformer, block by block."""

    version = 1
    restores_grid = True
    needs_blocks = True  # of the masker
    blocks: Any
    positions: Tensor

    def __init__(self, dim: int = 384, depth: int = 6, heads: int = 12) -> None:
        super().__init__()
        if min(dim, depth, heads) < 1 or dim % heads or dim % 4:
            raise ValueError(
                f"dim must be a multiple of 4 and of heads, all at least 1, not {dim}, {depth} and {heads}."
            )
        self.dim, self.depth, self.heads = dim, depth, heads

    def build(self, dim: int, width: int, grid: PatchGrid, last: Decoder | None = None) -> None:
        self.embed = nn.Linear(dim, self.dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, self.dim))
        positions = sincos(grid.rows, grid.columns, self.dim, cls=False)
        self.register_buffer("positions", positions, persistent=False)
        self.blocks = nn.ModuleList(transformer_block(self.dim, self.heads) for _ in range(self.depth))
        self.norm = nn.LayerNorm(self.dim, eps=1e-6)
        self.project = nn.Linear(self.dim, width)
        self._initialize()

    def _initialize(self) -> None:
        """Truncated normal of 0.02; the last layers of block l are divided by the root of 2 l."""
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        with torch.no_grad():
            for index, block in enumerate(self.blocks, 1):
                block.attn.proj.weight.div_(math.sqrt(2 * index))
                block.mlp.fc2.weight.div_(math.sqrt(2 * index))

    def forward(self, encoded: Encoded, masks: Masks | None) -> Tensor:
        assert masks is not None
        assert masks.blocks is not None
        context = self.embed(encoded.patches)
        positions = self.positions.to(context.dtype)
        context = context + (positions[encoded.kept] if encoded.kept is not None else positions)
        blocks, count = masks.blocks.shape[1:]
        queries = (self.mask_token + positions[masks.blocks]).flatten(0, 1)  # (B * T, P, dim)
        x = torch.cat([context.repeat_interleave(blocks, dim=0), queries.to(context.dtype)], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.project(self.norm(x[:, -count:])).flatten(0, 1)  # (B * T * P, width)
