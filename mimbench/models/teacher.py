"""The teacher: a second encoder that gives targets and gets no gradients."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn

from mimbench.config.terms import TeacherConfig
from mimbench.models.encoder import Encoder


class Teacher(nn.Module):
    """A moving average of the student's encoder and decoders, or another row's encoder, frozen. Always in eval mode."""

    def __init__(self, config: TeacherConfig, encoder: Encoder, decoders: nn.ModuleDict, *, frozen: bool) -> None:
        super().__init__()
        self.config, self.frozen = config, frozen
        self.encoder = encoder if self.frozen else copy.deepcopy(encoder)
        self.decoders = nn.ModuleDict() if self.frozen else copy.deepcopy(decoders)
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> Teacher:
        return super().train(False)

    def momentum(self, progress: float) -> float:
        config = self.config
        if config.schedule == "constant":
            return config.momentum
        share = progress if config.schedule == "linear" else 0.5 * (1 - math.cos(math.pi * progress))
        return config.momentum + (config.end - config.momentum) * share

    @torch.no_grad()
    def follow(self, encoder: nn.Module, decoders: nn.ModuleDict, progress: float) -> None:
        """After the update of each step, parameters only, as the published methods do."""
        if self.frozen:
            return
        ours: list[torch.Tensor] = [*self.encoder.parameters(), *self.decoders.parameters()]
        torch._foreach_lerp_(ours, [*encoder.parameters(), *decoders.parameters()], 1 - self.momentum(progress))
