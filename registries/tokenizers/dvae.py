"""A discrete variational autoencoder, trained on the images of the run."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mimbench.models.blocks import ConvBlock, patchify
from mimbench.models.codes import use_of
from mimbench.models.pixels import normalize
from mimbench.parts import Batch, Encoder, PatchGrid, TrainedTokenizer
from mimbench.registry import TOKENIZERS

SPREAD = 0.25  # natural images in [0, 1] deviate by about this much; inputs and reconstructions are in this unit
MAX_STEM = 4  # largest stride of the first layer, in pixels
CODE_SCALE = 0.3  # of the initial code vectors; reconstructs better than 1 after a short training


@TOKENIZERS.register_module("dvae")
class DiscreteVAE(TrainedTokenizer):
    """A convolutional dVAE: one code per patch, trained first on the run's own images with a Gumbel-softmax.

    Minimizes the squared error of the reconstruction plus `kl` times the divergence of the batch's mean code
    distribution from the uniform one: without that the codebook collapses. The temperature falls geometrically from
    `temperature_start` to `temperature_end`. Each of encoder and decoder has `layers` residual blocks of `hidden`
    channels at the grid, and one for each doubling of the patch beyond 4 pixels. `perceptual` weighs how far a frozen
    teacher's features of the reconstruction are from those of the image (PeCo): the squared distance of unit vectors,
    averaged over patches and four blocks of the teacher.
    """

    version = 1
    neutral = {"perceptual": 0.0}  # noqa: RUF012
    target = "codes"
    views = ("raw",)

    def __init__(
        self,
        vocabulary: int = 8192,
        hidden: int = 64,
        layers: int = 1,
        temperature_start: float = 1.0,
        temperature_end: float = 0.0625,
        kl: float = 0.05,
        perceptual: float = 0.0,
    ) -> None:
        super().__init__()
        if vocabulary < 2:
            raise ValueError(f"vocabulary must be at least 2 codes, not {vocabulary}.")
        if hidden < 1 or layers < 0:
            raise ValueError(f"hidden must be at least 1 and layers at least 0, not {hidden} and {layers}.")
        if not 0 < temperature_end <= temperature_start:
            raise ValueError(
                "temperatures must be greater than 0 and not rise, "
                f"not {temperature_start} at the start and {temperature_end} at the end."
            )
        if kl < 0:
            raise ValueError(f"kl is a weight of at least 0, not {kl}.")
        if perceptual < 0:
            raise ValueError(f"perceptual is a weight of at least 0, not {perceptual}.")
        self.vocabulary, self.hidden, self.layers, self.kl = vocabulary, hidden, layers, kl
        self.perceptual, self.needs_teacher = perceptual, perceptual > 0
        self._teacher: Encoder | None = None
        self.temperature_start, self.temperature_end = temperature_start, temperature_end

    def width(self, grid: PatchGrid) -> int:
        return self.vocabulary

    def build(self, grid: PatchGrid) -> None:
        if grid.patch < 2 or grid.patch & (grid.patch - 1):
            raise ValueError(f"tokenizer 'dvae' needs a patch side that is a power of two, not {grid.patch} pixels.")
        stem = min(grid.patch, MAX_STEM)
        doublings = int(math.log2(grid.patch // stem))
        blocks = lambda: [ConvBlock(self.hidden) for _ in range(self.layers)]
        self.encoder = nn.Sequential(
            nn.Conv2d(grid.channels, self.hidden, stem, stride=stem),
            *[layer for _ in range(doublings) for layer in self._down()],
            *blocks(),
            nn.ReLU(),
            nn.Conv2d(self.hidden, self.vocabulary, 1),
        )
        self.codebook = nn.Parameter(CODE_SCALE * torch.randn(self.vocabulary, self.hidden))
        self.decoder = nn.Sequential(
            *blocks(),
            *[layer for _ in range(doublings) for layer in self._up()],
            nn.ReLU(),
            nn.Conv2d(self.hidden, grid.channels * stem**2, 1),
            nn.PixelShuffle(stem),
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def learn_from(self, teacher: Encoder) -> None:
        self._teacher = teacher

    def _down(self) -> list[nn.Module]:
        return [ConvBlock(self.hidden), nn.Conv2d(self.hidden, self.hidden, 2, stride=2)]

    def _up(self) -> list[nn.Module]:
        return [nn.Conv2d(self.hidden, 4 * self.hidden, 1), nn.PixelShuffle(2), ConvBlock(self.hidden)]

    @torch.no_grad()
    def forward(self, batch: Batch, grid: PatchGrid) -> Tensor:
        codes = self._logits(_scaled(batch)).argmax(-1).flatten(1)  # (B, N)
        if codes.shape[1] != grid.count:
            raise ValueError(f"the view raw gives {codes.shape[1]} codes per image, and the grid has {grid.count}.")
        return codes

    @torch.no_grad()
    def decode(self, targets: Tensor, batch: Batch, grid: PatchGrid) -> Tensor:
        """Codes (B, N) -> the images that they stand for, (B, C, H, W) in [0, 1] but for rounding."""
        return self._reconstruct(self.codebook[targets.unflatten(1, (grid.rows, grid.columns))]) * SPREAD + 0.5

    def _logits(self, images: Tensor) -> Tensor:
        """(B, rows, columns, vocabulary), float32 under autocast too."""
        logits: Tensor = self.encoder(images)
        return logits.permute(0, 2, 3, 1).float()

    def _reconstruct(self, codes: Tensor) -> Tensor:
        """Code vectors (B, rows, columns, hidden) -> images."""
        images: Tensor = self.decoder(codes.permute(0, 3, 1, 2))
        return images.float()

    def training_loss(self, batch: Batch, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        images = _scaled(batch)
        logits = self._logits(images)
        temperature = self.temperature_start * (self.temperature_end / self.temperature_start) ** progress
        soft_codes = F.gumbel_softmax(logits, tau=temperature)
        reconstruction = self._reconstruct(soft_codes @ self.codebook)
        error = F.mse_loss(reconstruction, images)
        usage = logits.softmax(-1).mean((0, 1, 2))  # (vocabulary,)
        divergence = math.log(self.vocabulary) + torch.special.xlogy(usage, usage).sum()
        values = {
            "reconstruction": error.detach() * SPREAD**2,
            "mean_code_perplexity": self.vocabulary * (-divergence.detach()).exp(),
        }
        loss = error + self.kl * divergence
        if self.perceptual:
            distance = self._seen_by_teacher(reconstruction * SPREAD + 0.5, batch["raw"])
            loss, values["perceptual"] = loss + self.perceptual * distance, distance.detach()
        return loss, values

    def _seen_by_teacher(self, reconstruction: Tensor, raw: Tensor) -> Tensor:
        """The squared distance of the teacher's features, each of unit length."""
        assert self._teacher is not None, "learn_from() comes first"
        blocks = quarter_blocks(self._teacher.depth)
        with torch.no_grad():
            wanted = self._teacher(normalize(raw), None, blocks).taps
        found = self._teacher(normalize(reconstruction), None, blocks).taps
        cosines = [
            F.cosine_similarity(found[b][:, 1:].float(), wanted[b][:, 1:].float(), dim=-1).mean() for b in blocks
        ]
        return 2 - 2 * torch.stack(cosines).mean()

    @torch.no_grad()
    def quality(self, batch: Batch, grid: PatchGrid) -> dict[str, Any]:
        """Squared errors are on the [0, 1] scale; perplexity and share of codes used are those of the hard codes.

        A tokenizer is usable if its hard codes reconstruct better than the mean color of each patch, a target that needs
        no codes at all, and if it has not collapsed onto few of them.
        """
        images = _scaled(batch)
        codes = self._logits(images).argmax(-1)
        error = F.mse_loss(self._reconstruct(self.codebook[codes]), images).item() * SPREAD**2
        patches = patchify(batch["raw"], grid.rows, grid.columns).unflatten(-1, (-1, grid.channels))
        mean_error = patches.var(dim=-2, correction=0).mean().item()
        use, faults = use_of(codes, self.vocabulary)
        if not error < mean_error:
            worse = f"its codes reconstruct no better ({error:.5f}) than the mean of each patch ({mean_error:.5f})"
            faults.insert(0, worse)
        return {
            **use,
            "reconstruction_mse": error,
            "patch_mean_mse": mean_error,
            "usable": not faults,
            "why": "; ".join(faults) or "reconstructs better than the mean of each patch, and the codebook is in use",
        }


def quarter_blocks(depth: int) -> tuple[int, ...]:
    """A quarter, a half, three quarters and the end: 2, 5, 8, 11 of 12."""
    return tuple(dict.fromkeys(max(0, round(depth * share) - 1) for share in (0.25, 0.5, 0.75, 1.0)))


def _scaled(batch: Batch) -> Tensor:
    return (batch["raw"] - 0.5) / SPREAD
