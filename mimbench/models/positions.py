"""Fixed position embeddings; positions brought to another grid."""

from collections.abc import Mapping

import torch
from torch import Tensor

from mimbench.parts import PatchGrid


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


def on_grid(state: dict[str, Tensor], own: Mapping[str, Tensor], grid: PatchGrid) -> dict[str, Tensor]:
    """An encoder's weights for another number of patches: positions interpolated as timm does. `own`: of the wanted shapes."""
    from timm.layers.pos_embed import resample_abs_pos_embed  # not above: a plan names parts, and timm takes seconds
    from timm.layers.pos_embed_rel import resize_rel_pos_bias_table

    found, size = dict(state), (grid.rows, grid.columns)
    for key, value in state.items():
        if key not in own or value.shape == own[key].shape:
            continue
        if key.endswith("pos_embed") and value.shape[-1] == own[key].shape[-1]:
            placed = own[key].shape[1] - grid.count  # of the class token, if it has a position
            found[key] = resample_abs_pos_embed(value, list(size), num_prefix_tokens=placed)
        elif key.endswith("relative_position_bias_table") and value.shape[1] == own[key].shape[1]:
            found[key] = resize_rel_pos_bias_table(value, size, tuple(own[key].shape))
    return found
