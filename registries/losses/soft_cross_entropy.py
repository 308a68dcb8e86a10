"""Cross-entropy with distributions as targets."""

from typing import Literal

from torch import Tensor

from mimbench.registry import LOSSES


@LOSSES.register_module("soft_cross_entropy")
class SoftCrossEntropy:
    """Cross-entropy of the prediction's softmax at `temperature` with a target distribution (DINO, iBOT, CAPI).

    `average: images` weighs images alike, however many of their patches are masked, as iBOT does.
    """

    version = 1
    expects = "distribution"

    def __init__(self, temperature: float = 0.1, average: Literal["positions", "images"] = "positions") -> None:
        if temperature <= 0:
            raise ValueError(f"temperature must be greater than 0, not {temperature}.")
        self.temperature, self.average = temperature, average

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        return -(target * (prediction / self.temperature).log_softmax(-1)).sum(-1)
