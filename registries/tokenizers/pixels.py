"""Pixels as targets."""

import torch
from torch import Tensor

from mimbench.models.blocks import patchify, unpatchify
from mimbench.parts import Batch, PatchGrid, Tokenizer
from mimbench.registry import TOKENIZERS

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, whatever the data: one scale for all losses


@TOKENIZERS.register_module("pixels")
class Pixels(Tokenizer):
    """The pixels of a patch, row by row, channels innermost; `normalize: true` standardizes each patch (MAE).

    Reads the view `raw` in [0, 1] and shifts and scales it by ImageNet's mean and deviation, which is what SimMIM and
    MAE regress. Each patch is then standardized with its own mean and unbiased variance, if asked for.
    """

    version = 1
    target = "features"
    views = ("raw",)

    mean: Tensor
    std: Tensor

    def __init__(self, normalize: bool = False) -> None:
        super().__init__()
        self.normalize = normalize
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    def width(self, grid: PatchGrid) -> int:
        return grid.patch**2 * grid.channels

    @torch.no_grad()
    def forward(self, batch: Batch, grid: PatchGrid) -> Tensor:
        patches = patchify((batch["raw"] - self.mean) / self.std, grid.rows, grid.columns)  # (B, N, p * q * 3)
        if patches.shape[-1] != self.width(grid):
            raise ValueError(
                f"the view raw gives {patches.shape[-1]} values per patch, and the grid has {self.width(grid)}."
            )
        if self.normalize:
            mean, deviation = _statistics(patches)
            patches = (patches - mean) / deviation
        return patches

    @torch.no_grad()
    def decode(self, targets: Tensor, batch: Batch, grid: PatchGrid) -> Tensor:
        """(B, N, D) -> images (B, 3, H, W); standardized patches get mean and deviation of the batch's, as MAE's figures do."""
        if self.normalize:
            shown = patchify((batch["raw"] - self.mean) / self.std, grid.rows, grid.columns)
            mean, deviation = _statistics(shown)
            targets = targets * deviation + mean
        return unpatchify(targets, grid.rows, grid.columns) * self.std + self.mean


def _statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each patch, (B, N, 1)."""
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)  # unbiased
    return mean, (variance + 1e-6).sqrt()
