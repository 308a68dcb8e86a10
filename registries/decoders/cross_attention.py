"""A decoder whose predicted positions do not see one another."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mimbench.models.positions import sincos
from mimbench.parts import Decoder, Encoded, Masks, PatchGrid
from mimbench.registry import DECODERS


class CrossBlock(nn.Module):
    """Cross-attention from queries to the encoder's output, then an MLP; pre-norm."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_query, self.norm_mlp = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.query, self.key_value, self.project = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        query = self.query(self.norm_query(x)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        key, value = self.key_value(memory).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        x = x + self.project(attended)
        return x + self.mlp(self.norm_mlp(x))


@DECODERS.register_module("cross_attention")
class CrossAttention(Decoder):
    """CAPI's and CrossMAE's decoder: a mask token per predicted position attends to the encoder's output only.

    `normalized_head` compares unit vectors, as CAPI does. Positions are sine-cosine (CAPI's are rotary). Every image must have
    the same number of predicted positions.
    """

    version = 1
    restores_grid = True
    needs_constant_count = True  # of the masker
    positions: Tensor

    def __init__(self, depth: int = 12, heads: int = 12, normalized_head: bool = False) -> None:
        super().__init__()
        if min(depth, heads) < 1:
            raise ValueError(f"depth and heads must be at least 1, not {depth} and {heads}.")
        self.depth, self.heads, self.normalized_head = depth, heads, normalized_head

    def check(self, dim: int) -> None:
        if dim % self.heads or dim % 4:
            raise ValueError(f"{self.heads} heads and 4 must divide the dimension, which is {dim}.")

    def build(self, dim: int, width: int, grid: PatchGrid, last: Decoder | None = None) -> None:
        self.patches = grid.count
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.register_buffer("positions", sincos(grid.rows, grid.columns, dim, cls=False), persistent=False)
        self.blocks = nn.ModuleList(CrossBlock(dim, self.heads) for _ in range(self.depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, width, bias=not self.normalized_head)
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, encoded: Encoded, masks: Masks | None) -> Tensor:
        assert masks is not None
        positions = self.positions.to(encoded.patches.dtype)
        memory = encoded.patches + (positions[encoded.kept] if encoded.kept is not None else positions)
        memory = torch.cat([encoded.cls.unsqueeze(1), memory], dim=1)
        places = (masks.predicted % self.patches).view(len(memory), -1)  # (B, P)
        x = (self.mask_token + positions[places]).to(memory.dtype)
        for block in self.blocks:
            x = block(x, memory)
        x = self.norm(x).flatten(0, 1)
        if not self.normalized_head:
            return self.head(x)
        return F.normalize(x, dim=-1) @ F.normalize(self.head.weight, dim=-1).T
