"""Histograms of oriented gradients."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mimbench.models.blocks import patchify
from mimbench.parts import Batch, PatchGrid, Tokenizer
from mimbench.registry import TOKENIZERS


@TOKENIZERS.register_module("hog")
class HOG(Tokenizer):
    """MaskFeat's targets: per patch, channel and cell a histogram of gradient orientations, of unit length.

    Gradients are Sobel's, of the normalized image with its border reflected; the angle counts from the vertical, without
    sign, in `bins` equal bins, each pixel weighted by its gradient's magnitude. A patch has `cells` x `cells` cells;
    MaskFeat's are 8 pixels wide, so 2 x 2 in a patch of 16. Values are ordered channel, bin, cell row, cell column.
    """

    version = 1
    target = "features"
    views = ("image",)

    kernel: Tensor

    def __init__(self, bins: int = 9, cells: int = 2) -> None:
        super().__init__()
        if bins < 2 or cells < 1:
            raise ValueError(f"bins must be at least 2 and cells at least 1, not {bins} and {cells}.")
        self.bins, self.cells = bins, cells
        sobel = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]])
        self.register_buffer("kernel", torch.stack([sobel, sobel.T]).unsqueeze(1), persistent=False)  # (2, 1, 3, 3)

    def width(self, grid: PatchGrid) -> int:
        if grid.patch % self.cells:
            raise ValueError(f"tokenizer 'hog': {self.cells} cells do not divide a patch of {grid.patch} pixels.")
        return grid.channels * self.bins * self.cells**2

    @torch.no_grad()
    def forward(self, batch: Batch, grid: PatchGrid) -> Tensor:
        image = batch["image"]
        count, channels, height, width = image.shape
        padded = F.pad(image, (1, 1, 1, 1), mode="reflect").flatten(0, 1).unsqueeze(1)
        gx, gy = F.conv2d(padded, self.kernel).unbind(1)  # (B * C, H, W) each
        angle = torch.atan2(gx, gy) / math.pi * self.bins
        index = angle.floor().long() % self.bins
        votes = torch.zeros(len(gx), self.bins, height, width, device=image.device, dtype=image.dtype)
        votes.scatter_(1, index.unsqueeze(1), torch.hypot(gx, gy).unsqueeze(1))
        cell = grid.patch // self.cells
        histogram = F.normalize(F.avg_pool2d(votes, cell) * cell**2, dim=1, eps=1e-12)  # (B * C, bins, rows, columns)
        cells = histogram.view(count, channels * self.bins, *histogram.shape[-2:])
        patches = patchify(cells, grid.rows, grid.columns)  # (B, N, cells^2 * C * bins), channels innermost
        return patches.unflatten(-1, (self.cells**2, -1)).transpose(-1, -2).flatten(-2)
