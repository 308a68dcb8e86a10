"""Tensors of all ranks, with gradient: dist.all_gather and dist.all_reduce silently drop it."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def summed(x: Tensor) -> Tensor:
    """The sum over all ranks."""
    return x if world() == 1 else _Summed.apply(x)


def gathered(x: Tensor) -> Tensor:
    """The rows of all ranks, in order; every rank must have as many."""
    return x if world() == 1 else _Gathered.apply(x)


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(world())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)  # every rank's loss depends on these rows
        return total.chunk(world())[dist.get_rank()]
