"""iGPT's palette of colors."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mimbench.models.codes import use_of
from mimbench.models.kmeans import assigned, kmeans
from mimbench.parts import Batch, PatchGrid, TrainedTokenizer
from mimbench.registry import TOKENIZERS

ITERATIONS = 20


@TOKENIZERS.register_module("palette")
class Palette(TrainedTokenizer):
    """The nearest of `colors` colors to a patch's mean color; with patches of one pixel, iGPT's codes.

    The colors are the k-means centers of the mean colors of all patches in the first images of the training.
    """

    version = 1
    target = "codes"
    views = ("raw",)
    at_once = True

    palette: Tensor

    def __init__(self, colors: int = 512) -> None:
        super().__init__()
        if colors < 2:
            raise ValueError(f"colors must be at least 2, not {colors}.")
        self.colors = colors

    def width(self, grid: PatchGrid) -> int:
        return self.colors

    def build(self, grid: PatchGrid) -> None:
        self.patch = grid.patch
        self.register_buffer("palette", torch.rand(self.colors, grid.channels))

    def _means(self, raw: Tensor) -> Tensor:
        """(B, N, 3): the mean color of each patch."""
        return F.avg_pool2d(raw.float(), self.patch).flatten(2).transpose(1, 2)

    def find(self, raw: Tensor) -> None:
        self.palette.copy_(kmeans(self._means(raw).flatten(0, 1), self.colors, ITERATIONS))

    @torch.no_grad()
    def forward(self, batch: Batch, grid: PatchGrid) -> Tensor:
        means = self._means(batch["raw"])
        if means.shape[1] != grid.count:
            raise ValueError(f"the view raw gives {means.shape[1]} codes per image, and the grid has {grid.count}.")
        with torch.autocast(means.device.type, enabled=False):  # bf16 would change codes
            return assigned(means.flatten(0, 1), self.palette).view(means.shape[:2])

    def decode(self, targets: Tensor, batch: Batch, grid: PatchGrid) -> Tensor:
        """Codes (B, N) -> images of patches of one color each, (B, 3, H, W)."""
        colors = self.palette[targets.unflatten(1, (grid.rows, grid.columns))].permute(0, 3, 1, 2)
        return F.interpolate(colors, scale_factor=float(self.patch))

    @torch.no_grad()
    def quality(self, batch: Batch, grid: PatchGrid) -> dict[str, Any]:
        """Usable if its colors are nearer to the patches' than the mean color of all is, and if they are in use."""
        means, codes = self._means(batch["raw"]), self(batch, grid)
        error = F.mse_loss(self.palette[codes], means).item()
        of_mean = means.var((0, 1), correction=0).mean().item()
        use, faults = use_of(codes, self.colors)
        if not error < of_mean:
            faults.insert(0, f"its colors are no nearer ({error:.5f}) than the mean color of all ({of_mean:.5f})")
        why = "; ".join(faults) or "its colors are nearer than the mean color of all, and in use"
        return {**use, "color_mse": error, "mean_color_mse": of_mean, "usable": not faults, "why": why}
