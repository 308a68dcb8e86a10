"""Cosine over features."""

import torch.nn.functional as F
from torch import Tensor

from mimbench.registry import LOSSES


@LOSSES.register_module("cosine")
class Cosine:
    """2 - 2 cos: the squared distance of unit vectors (BYOL)."""

    version = 1
    expects = "features"

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        return 2 - 2 * F.cosine_similarity(prediction, target, dim=-1)
