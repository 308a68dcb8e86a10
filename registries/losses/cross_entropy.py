"""Cross-entropy over codes."""

import torch.nn.functional as F
from torch import Tensor

from mimbench.registry import LOSSES


@LOSSES.register_module("cross_entropy")
class CrossEntropy:
    """Cross-entropy of the predicted code (BEiT)."""

    version = 1
    expects = "codes"

    def __init__(self, label_smoothing: float = 0.0) -> None:
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be at least 0 and less than 1, not {label_smoothing}.")
        self.label_smoothing = label_smoothing

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(prediction, target, reduction="none", label_smoothing=self.label_smoothing)
