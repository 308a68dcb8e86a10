"""MoCo v3's loss."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mimbench.registry import LOSSES


@LOSSES.register_module("info_nce")
class InfoNCE:
    """Which target of the whole batch is the same image's? By cosine at `temperature`, times twice that (MoCo v3)."""

    version = 1
    expects = "features"
    whole_batch = True

    def __init__(self, temperature: float = 0.2) -> None:
        if temperature <= 0:
            raise ValueError(f"temperature must be greater than 0, not {temperature}.")
        self.temperature = temperature

    def __call__(self, predictions: Tensor, targets: Tensor, mine: slice) -> Tensor:
        scores = F.normalize(predictions[mine], dim=-1) @ F.normalize(targets, dim=-1).T / self.temperature
        own = torch.arange(mine.start, mine.stop, device=scores.device)
        return 2 * self.temperature * F.cross_entropy(scores, own, reduction="none")
