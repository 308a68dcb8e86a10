"""Mean squared error over features."""

import torch.nn.functional as F
from torch import Tensor

from mimbench.registry import LOSSES


@LOSSES.register_module("mse")
class MeanSquaredError:
    """Squared error, averaged over a position's features (MAE, MaskFeat)."""

    version = 1
    expects = "features"

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(prediction, target, reduction="none").mean(-1)
