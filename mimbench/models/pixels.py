"""The normalizations of pixels that encoders were trained with."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from mimbench.data.views import MEAN, STD
from mimbench.data.views import normalize as normalize  # parts may use it

STATISTICS = {  # mean and standard deviation of red, green and blue
    "imagenet": (MEAN, STD),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}


def renormalized(images: Tensor, to: str) -> Tensor:
    """From ImageNet's normalization, which every view has, to another one."""
    if to == "imagenet":
        return images
    scale, shift = _change(to, images.device, images.dtype)
    return images * scale + shift


@functools.cache
def _change(to: str, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Once per device: a copy in each step would synchronize."""
    with torch.inference_mode(False):
        here, there = (
            torch.tensor(STATISTICS[name], dtype=torch.float64)[:, :, None, None] for name in ("imagenet", to)
        )
        scale, shift = here[1] / there[1], (here[0] - there[0]) / there[1]
        return scale.to(device, dtype), shift.to(device, dtype)


def named(mean: tuple[float, ...], std: tuple[float, ...]) -> str | None:
    """The name of a normalization by its figures."""
    given = torch.tensor([mean, std])
    close = (name for name, known in STATISTICS.items() if torch.allclose(given, torch.tensor(known), atol=1e-3))
    return next(close, None)
