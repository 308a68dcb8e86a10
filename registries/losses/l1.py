"""Mean absolute error over features."""

import torch.nn.functional as F
from torch import Tensor

from mimbench.registry import LOSSES


@LOSSES.register_module("l1")
class L1:
    """Absolute error, averaged over a position's features (SimMIM)."""

    version = 1
    expects = "features"

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        return F.l1_loss(prediction, target, reduction="none").mean(-1)
