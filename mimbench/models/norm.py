"""Batch normalization over all ranks."""

from typing import Any

import torch
from torch import Tensor, nn

from mimbench.models.ranks import summed


class BatchNorm(nn.Module):
    """Always by the statistics of the batch of all ranks, with gradient; nn.SyncBatchNorm refuses CPU tensors.

    It keeps no running mean, so a teacher in eval mode normalizes by its batch too.
    """

    def __init__(self, dim: int, affine: bool = True) -> None:
        super().__init__()
        self.weight: Any = nn.Parameter(torch.ones(dim)) if affine else None
        self.bias: Any = nn.Parameter(torch.zeros(dim)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()
        sums = summed(torch.stack([x.sum(0), x.square().sum(0), x.new_full((x.shape[1],), len(x))]))
        mean = sums[0] / sums[2]
        variance = (sums[1] / sums[2] - mean.square()).clamp(min=0)  # rounding, where a feature is constant
        normalized = (x - mean) * (variance + 1e-5).rsqrt()
        return normalized if self.weight is None else normalized * self.weight + self.bias
