"""Fixed position embeddings, and tables of positions for another grid."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

TABLES = ("pos_embed", "relative_position_bias_table")


def sincos(rows: int, columns: int, dim: int, cls: bool) -> Tensor:
    """MAE's 2-D sine-cosine embedding, (rows * columns, dim); with `cls`, a row of zeros before it.

    The first half of the channels encodes the column, the second the row; each half is [sine | cosine] of the index
    times dim / 4 frequencies, from 1 down toward 1/10000.
    """
    if dim % 4:
        raise ValueError(f"sine-cosine positions need a dimension divisible by 4, not {dim}.")
    frequencies = 10000.0 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    halves = [index.reshape(-1, 1) * frequencies for index in (column, row)]  # (N, dim / 4) each
    embedding = torch.cat([f(angles) for angles in halves for f in (torch.sin, torch.cos)], dim=1)
    if cls:
        embedding = torch.cat([embedding.new_zeros(1, dim), embedding])
    return embedding.float()


def fitted(state: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """Resize, in place, the position tables that are of another square grid; returns their names."""
    resized = []
    for key, table in state.items():
        target = wanted.get(key)
        if target is None or target.shape == table.shape or not key.endswith(TABLES):
            continue
        state[key] = (_absolute if key.endswith("pos_embed") else _relative)(table, target)
        resized.append(key)
    return resized


def _absolute(table: Tensor, target: Tensor) -> Tensor:
    """(1, placed + N, D) as timm resamples it."""
    from timm.layers.pos_embed import resample_abs_pos_embed

    old, new = (math.isqrt(each.shape[1]) for each in (table, target))
    placed = table.shape[1] - old**2
    if table.shape[-1] != target.shape[-1] or placed != target.shape[1] - new**2:
        return table
    return resample_abs_pos_embed(table, [new, new], num_prefix_tokens=placed)


def _relative(table: Tensor, target: Tensor) -> Tensor:
    """((2 side - 1)^2 + 3, heads) as timm resizes it."""
    from timm.layers.pos_embed_rel import resize_rel_pos_bias_table

    side = (math.isqrt(target.shape[0] - 3) + 1) // 2
    if table.shape[1] != target.shape[1]:
        return table
    return resize_rel_pos_bias_table(table, (side, side), target.shape)
