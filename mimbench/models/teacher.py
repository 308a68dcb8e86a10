"""The teacher: a second encoder that gives targets and gets no gradients."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from mimbench.config.terms import TeacherConfig
from mimbench.models.encoder import Encoder
from mimbench.models.places import on_grid
from mimbench.parts import Encoded, Masks


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

    def see(self, images: Tensor, masks: Masks | None, taps: tuple[int, ...]) -> Encoded:
        """Whole images, or only the patches that the student does not see; then the features of the others are zeros."""
        if self.config.sees == "all":
            return self.encoder(images, None, taps)
        assert masks is not None
        assert masks.kept is not None
        count, patches = masks.masked.shape
        order = masks.masked.int().argsort(dim=1, descending=True, stable=True)
        hidden = order[:, : patches - masks.kept.shape[1]]  # (B, P) ascending
        encoded = self.encoder(images, replace(masks, kept=hidden), taps)
        places = (hidden + torch.arange(count, device=hidden.device).unsqueeze(1) * patches).flatten()
        whole = lambda x: on_grid(x.flatten(0, 1), masks, places)
        tapped = {block: torch.cat([tap[:, :1], whole(tap[:, 1:])], dim=1) for block, tap in encoded.taps.items()}
        return replace(encoded, patches=whole(encoded.patches), kept=None, taps=tapped)

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
