"""SimCLR's loss."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mimbench.registry import LOSSES


@LOSSES.register_module("nt_xent")
class NTXent:
    """Which of all other views of the batch is the same image's? By cosine at `temperature` (SimCLR)."""

    version = 1
    expects = "features"
    whole_batch = True

    def __init__(self, temperature: float = 0.1) -> None:
        if temperature <= 0:
            raise ValueError(f"temperature must be greater than 0, not {temperature}.")
        self.temperature = temperature

    def __call__(self, predictions: Tensor, targets: Tensor, mine: slice) -> Tensor:
        one, other = F.normalize(predictions, dim=-1), F.normalize(targets, dim=-1)
        own = torch.arange(mine.start, mine.stop, device=one.device)
        across = one[mine] @ other.T / self.temperature
        within = (one[mine] @ one.T / self.temperature).scatter(1, own.unsqueeze(1), float("-inf"))
        return F.cross_entropy(torch.cat([across, within], dim=1), own, reduction="none")
