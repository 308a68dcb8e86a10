"""Pieces that several parts build from."""

import functools
import math

import torch.nn.functional as F
from torch import Tensor, nn


def transformer_block(dim: int, heads: int, mlp_ratio: float = 4.0, layer_scale: float | None = None) -> nn.Module:
    """A pre-norm ViT block as BEiT and MAE have it: query, key and value with bias, LayerNorm epsilon 1e-6."""
    from timm.models.vision_transformer import Block  # not above: a plan names parts, and timm takes seconds to import

    norm = functools.partial(nn.LayerNorm, eps=1e-6)
    return Block(dim, heads, mlp_ratio=mlp_ratio, qkv_bias=True, init_values=layer_scale, norm_layer=norm)  # type: ignore[arg-type]


class PlainBlock(nn.Module):
    """The same block without timm: for what is built while planning."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        hidden = int(dim * mlp_ratio)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class ConvBlock(nn.Module):
    """A residual block of a 3x3 and a 1x1 convolution, without normalization."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.residual(x)


def patchify(images: Tensor, rows: int, columns: int) -> Tensor:
    """(B, C, H, W) -> (B, rows * columns, p * q * C): pixels in the order row, column, channel, as MAE's."""
    batch, channels, height, width = images.shape
    if height % rows or width % columns:
        raise ValueError(f"an image of {height} x {width} pixels cannot be cut into {rows} x {columns} patches.")
    x = images.reshape(batch, channels, rows, height // rows, columns, width // columns)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(batch, rows * columns, -1)


def unpatchify(patches: Tensor, rows: int, columns: int, channels: int = 3) -> Tensor:
    """The inverse, for square patches: (B, rows * columns, p * p * C) -> (B, C, H, W)."""
    side = math.isqrt(patches.shape[-1] // channels)
    x = patches.unflatten(1, (rows, columns)).unflatten(-1, (side, side, channels))  # (B, rows, columns, p, p, C)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(len(patches), channels, rows * side, columns * side)


def initialize_xavier(module: nn.Module) -> None:
    """For `apply`: weights as MAE and CAE have them, biases zero."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
