"""Cosine distance of features."""

import torch.nn.functional as F
from torch import Tensor

from mimbench.registry import LOSSES


@LOSSES.register_module("cosine")
class Cosine:
    """1 - cosine of prediction and target: the length of neither matters (EVA; BYOL's is twice it)."""

    version = 1
    expects = "features"

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        return 1 - F.cosine_similarity(prediction, target, dim=-1)
