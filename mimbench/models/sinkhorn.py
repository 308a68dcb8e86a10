"""Balanced assignments."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor

from mimbench.models.ranks import world

EPSILON = 1e-8


def sinkhorn(scores: Tensor, iterations: int) -> Tensor:
    """(B, ..., K) scores of B samples -> assignments that sum to 1; each of the K gets an equal share of the samples of all ranks.

    Apart for each place between. Ranks may have different numbers of samples.
    """
    # of each place and cluster: the first division cancels it
    most = scores.amax(0, keepdim=True) if len(scores) else scores.new_full((1, *scores.shape[1:]), float("-inf"))
    if world() > 1:
        dist.all_reduce(most, op=dist.ReduceOp.MAX)
    weights = (scores - most).exp()
    for _ in range(iterations):
        per_cluster = weights.sum(0, keepdim=True)  # (1, ..., K)
        if world() > 1:
            dist.all_reduce(per_cluster)
        weights = weights / (per_cluster + EPSILON)
        weights = weights / (weights.sum(-1, keepdim=True) + EPSILON)
    return weights
