"""DINO's head."""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mimbench.parts import Decoder, Encoded, Masks, PatchGrid, picked
from mimbench.registry import DECODERS


@DECODERS.register_module("prototypes")
class Prototypes(Decoder):
    """DINO's head: an MLP to a unit vector, and its cosines with prototypes of unit length.

    The prototypes are not trained during the first share `frozen` of the training (DINO: one of 100 epochs).
    """

    version = 1
    restores_grid = False
    levels = ("patch", "image")

    def __init__(self, hidden: int = 2048, bottleneck: int = 256, frozen: float = 0.01) -> None:
        super().__init__()
        if min(hidden, bottleneck) < 1 or not 0 <= frozen < 1:
            raise ValueError(
                f"hidden and bottleneck must be at least 1, frozen in [0, 1), not {hidden}, {bottleneck} and {frozen}."
            )
        self.hidden, self.bottleneck, self.frozen = hidden, bottleneck, frozen

    def build(self, dim: int, width: int, grid: PatchGrid, last: Decoder | None = None) -> None:
        sizes = (dim, self.hidden, self.hidden, self.bottleneck)
        layers: list[nn.Module] = []
        for index, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
            layers += [nn.GELU()] * (index > 0) + [nn.Linear(inputs, outputs)]
        self.layers = nn.Sequential(*layers)
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.prototypes = nn.Parameter(torch.empty(width, self.bottleneck))
        nn.init.kaiming_uniform_(self.prototypes, a=math.sqrt(5))

    def rows(self, x: Tensor) -> Tensor:
        return F.normalize(self.layers(x), dim=-1) @ F.normalize(self.prototypes, dim=-1).T

    def forward(self, encoded: Encoded, masks: Masks | None) -> Tensor:
        return self.rows(picked(encoded, masks))

    def after_backward(self, progress: float) -> None:
        if progress < self.frozen:
            self.prototypes.grad = None  # the optimizer skips it, weight decay included
