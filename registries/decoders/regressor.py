"""CAE's latent regressor."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mimbench.models.blocks import initialize_xavier
from mimbench.models.positions import sincos
from mimbench.parts import Decoder, Encoded, Masks, PatchGrid
from mimbench.registry import DECODERS


class RegressorBlock(nn.Module):
    """Cross-attention to the memory, then an MLP. Positions are added to queries and keys, not to values.

    The second norm is not a pre-norm: what it gives is also what the MLP is added to.
    """

    def __init__(self, dim: int, heads: int, layer_scale: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm_query, self.norm_key, self.norm_value, self.norm_mlp = (nn.LayerNorm(dim, eps=1e-6) for _ in range(4))
        self.query, self.key, self.value = nn.Linear(dim, dim), nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim)
        self.project = nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.scale_attention, self.scale_mlp = (nn.Parameter(torch.full((dim,), layer_scale)) for _ in range(2))

    def forward(self, x: Tensor, memory: Tensor, at: Tensor, memory_at: Tensor) -> Tensor:
        query, key = self.query(self.norm_query(x + at)), self.key(self.norm_key(memory + memory_at))
        value = self.value(self.norm_value(memory))
        split = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (query, key, value))
        attended = F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)
        x = self.norm_mlp(x + self.scale_attention * self.project(attended))
        return x + self.scale_mlp * self.mlp(x)


@DECODERS.register_module("regressor")
class Regressor(Decoder):
    """CAE's regressor: mask tokens become the features of the hidden patches, by attention to the visible ones and to themselves.

    It predicts features as wide as the encoder's. The class token is not read. Every image must have the same number of
    predicted positions.
    """

    version = 1
    restores_grid = True
    needs_constant_count = True  # of the masker
    keeps_width = True
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
        if width != dim:
            raise ValueError(f"decoder 'regressor' predicts {dim} features, not {width}.")
        self.patches = grid.count
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.register_buffer("positions", sincos(grid.rows, grid.columns, dim, cls=False), persistent=False)
        self.blocks = nn.ModuleList(RegressorBlock(dim, self.heads, self.layer_scale) for _ in range(self.depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.apply(initialize_xavier)
        nn.init.trunc_normal_(self.mask_token, std=0.02, a=-0.02, b=0.02)

    def forward(self, encoded: Encoded, masks: Masks | None) -> Tensor:
        assert masks is not None
        visible = encoded.patches  # (B, K, D)
        places = (masks.predicted % self.patches).view(len(visible), -1)  # (B, P)
        positions = self.positions.to(visible.dtype)
        at = positions[places]
        visible_at = positions[encoded.kept] if encoded.kept is not None else positions.expand_as(visible)
        x, memory_at = self.mask_token.to(visible.dtype).expand_as(at), torch.cat([visible_at, at], dim=1)
        for block in self.blocks:
            x = block(x, torch.cat([visible, x], dim=1), at, memory_at)
        return self.norm(x).flatten(0, 1)
