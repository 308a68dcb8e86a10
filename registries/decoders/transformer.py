"""MAE's decoder."""

import torch
from torch import Tensor, nn

from mimbench.models.blocks import transformer_block
from mimbench.models.positions import sincos
from mimbench.parts import Decoder, Encoded, Masks, PatchGrid
from mimbench.registry import DECODERS


@DECODERS.register_module("transformer")
class Transformer(Decoder):
    """MAE's decoder: mask tokens in the gaps of the grid, fixed positions, transformer blocks, one linear layer.

    After an encoder that dropped nothing there are no gaps: its features at masked positions are taken as they are.
    """

    version = 1
    restores_grid = True

    def __init__(self, dim: int = 512, depth: int = 8, heads: int = 16) -> None:
        super().__init__()
        if min(dim, depth, heads) < 1:
            raise ValueError(f"dim, depth and heads must be at least 1, not {dim}, {depth} and {heads}.")
        if dim % heads:
            raise ValueError(f"dim ({dim}) must be a multiple of heads ({heads}).")
        if dim % 4:
            raise ValueError(f"dim must be divisible by 4 for its sine-cosine positions, and {dim} is not.")
        self.dim, self.depth, self.heads = dim, depth, heads

    def build(self, dim: int, width: int, grid: PatchGrid, last: Decoder | None = None) -> None:
        self.embed = nn.Linear(dim, self.dim)
        self.mask_token = nn.Parameter(torch.empty(1, 1, self.dim))
        positions = sincos(grid.rows, grid.columns, self.dim, cls=True)
        self.register_buffer("positions", positions, persistent=False)
        self.blocks = nn.Sequential(*[transformer_block(self.dim, self.heads) for _ in range(self.depth)])
        self.norm = nn.LayerNorm(self.dim, eps=1e-6)
        self.project = nn.Linear(self.dim, width)
        nn.init.normal_(self.mask_token, std=0.02)
        self.apply(_initialize)

    def forward(self, encoded: Encoded, masks: Masks | None) -> Tensor:
        assert masks is not None
        x = self.embed(torch.cat([encoded.cls.unsqueeze(1), encoded.patches], dim=1))  # (B, 1 + K, dim)
        if encoded.kept is not None:
            x = self._restore(x, masks.masked)  # (B, 1 + N, dim)
        x = self.blocks(x + self.positions)
        x = x[:, 1:].flatten(0, 1).index_select(0, masks.predicted)  # (M, dim)
        return self.project(self.norm(x))

    def _restore(self, x: Tensor, hidden: Tensor) -> Tensor:
        """Patches back to their places in the grid, mask tokens to the gaps."""
        cls, visible = x[:, :1], x[:, 1:]
        count = visible.shape[1]
        tokens = self.mask_token.to(x.dtype).expand(len(x), hidden.shape[1] - count, -1)
        # kept positions ascend, so the i-th visible place takes the i-th patch, and the i-th gap the i-th token;
        # each source is used once, which keeps the gradient's sums in one order
        source = torch.where(hidden, count + hidden.cumsum(1), (~hidden).cumsum(1)) - 1  # (B, N)
        index = source.unsqueeze(-1).expand(-1, -1, x.shape[-1])
        return torch.cat([cls, torch.cat([visible, tokens], dim=1).gather(1, index)], dim=1)


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
