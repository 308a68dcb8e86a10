"""Colors for what has none: codes, and features."""

from __future__ import annotations

import colorsys
import math

import numpy as np
import torch
from torch import Tensor

from mimbench.report.colors import FAINT

GOLDEN = (math.sqrt(5) - 1) / 2  # neighbors in number are far apart in hue
BLANK = np.array([int(FAINT[i : i + 2], 16) / 255 for i in (1, 3, 5)])  # of a patch of which nothing is shown


def of_codes(codes: Tensor, vocabulary: int) -> np.ndarray:
    """Codes of any shape -> the same shape with a color each: equal codes are alike, that is all that it says."""
    wheel = [
        colorsys.hsv_to_rgb(code * GOLDEN % 1, 0.45 + 0.2 * (code % 3), 0.95 - 0.075 * (code % 5))
        for code in range(vocabulary)
    ]
    colors: np.ndarray = np.array(wheel)[codes.cpu().numpy()]
    return colors


class Projection:
    """Three principal components of features as red, green and blue."""

    def __init__(self, features: Tensor) -> None:
        """`features`: (n, D), which say what the components are and how far they reach."""
        rows = features.double()
        self.mean = rows.mean(0)
        values, vectors = torch.linalg.eigh((rows - self.mean).T @ (rows - self.mean) / len(rows))
        self.components = vectors.flip(1)[:, :3]  # (D, 3), the largest first
        sign = self.components.gather(0, self.components.abs().argmax(0, keepdim=True)).sign()
        self.components = self.components * sign
        total = values.clamp(min=0).sum()
        self.share = float(values.flip(0)[:3].clamp(min=0).sum() / total) if total > 0 else 0.0  # of the variance
        projected = (rows - self.mean) @ self.components
        self.low, self.high = (projected.quantile(q, dim=0) for q in (0.01, 0.99))

    def __call__(self, features: Tensor) -> np.ndarray:
        """(..., D) -> (..., 3) in [0, 1]."""
        projected = (features.double() - self.mean) @ self.components
        scaled: np.ndarray = (
            ((projected - self.low) / (self.high - self.low).clamp(min=1e-12)).clamp(0, 1).cpu().numpy()
        )
        return (
            scaled
            if scaled.shape[-1] == 3
            else np.pad(scaled, [(0, 0)] * (scaled.ndim - 1) + [(0, 3 - scaled.shape[-1])])
        )
