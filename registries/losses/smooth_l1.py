"""Smooth L1 over features."""

import torch.nn.functional as F
from torch import Tensor

from mimbench.registry import LOSSES


@LOSSES.register_module("smooth_l1")
class SmoothL1:
    """Squared below an error of `beta`, absolute above, averaged over a position's features (data2vec)."""

    version = 1
    expects = "features"

    def __init__(self, beta: float = 1.0) -> None:
        if beta <= 0:
            raise ValueError(f"beta must be greater than 0, not {beta}; at 0 it would be the loss `l1`.")
        self.beta = beta

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        return F.smooth_l1_loss(prediction, target, reduction="none", beta=self.beta).mean(-1)
