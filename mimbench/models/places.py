"""Features of some patches, at their places in the grid."""

from __future__ import annotations

from torch import Tensor

from mimbench.parts import Masks


def on_grid(rows: Tensor, masks: Masks, positions: Tensor) -> Tensor:
    """(M, D) at flat positions of B x N -> (B, N, D), with zeros elsewhere."""
    images, patches = masks.masked.shape
    grid = rows.new_zeros(images * patches, rows.shape[1]).index_copy(0, positions, rows)
    return grid.view(images, patches, -1)
