"""The contracts of the parts: what a tokenizer, masker, loss and decoder must offer.

Shapes: B images, N = rows x columns patches in row-major order, D features, M predicted positions of the whole
(micro-)batch. Polarity: True = masked = hidden from the encoder.

A part is one class with an integer `version`, raised when its numbers change. Its constructor's signature is its
configuration: every argument is annotated, and its default is written into the run's spec before hashing.
`neutral = {"argument": value}` lists arguments that were added later: at that value they are left out of the spec, so
that earlier results are still found. What is required is checked where a part is looked up, by its instance: class
attributes and attributes set in the constructor both count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from mimbench import compat as compat  # parts may use timm and torchvision

Batch = Mapping[str, Tensor]
"""Named views of the same images: `image` (B, 3, H, W), normalized, for the encoder; `raw`, the same crop in
[0, 1], for tokenizers. A tokenizer declares the views it reads in `views`."""


@dataclass(frozen=True)
class PatchGrid:
    """The patches of an image."""

    rows: int
    columns: int
    patch: int  # side of a patch in pixels
    channels: int = 3

    @property
    def count(self) -> int:
        return self.rows * self.columns

    @staticmethod
    def of(size: int, patch: int) -> PatchGrid:
        """Of square images of `size` pixels."""
        return PatchGrid(size // patch, size // patch, patch)


@dataclass(frozen=True)
class Encoded:
    """What an encoder returns."""

    patches: Tensor  # (B, N, D), or (B, K, D) of the K visible patches where masked ones were dropped
    cls: Tensor  # (B, D)
    kept: Tensor | None  # (B, K) positions of the visible patches, ascending; None: all, in order
    taps: Mapping[int, Tensor]  # raw output of the requested blocks, (B, 1 + N, D), by 0-based block


@dataclass(frozen=True)
class Masks:
    """One batch of masks, with positions computed on the CPU so that no step waits for the device."""

    masked: Tensor  # (B, N) bool, True = masked
    predicted: Tensor  # (M,) int64: flat positions in B x N that are predicted
    kept: Tensor | None  # (B, K) int64 visible positions, where the encoder drops masked patches
    total: int  # predicted positions of the whole global batch, over all ranks and micro-batches

    def to(self, device: torch.device) -> Masks:
        kept = None if self.kept is None else self.kept.to(device, non_blocking=True)
        masked, predicted = (t.to(device, non_blocking=True) for t in (self.masked, self.predicted))
        return Masks(masked, predicted, kept, self.total)


Predict = Literal["masked", "all"]


class Masker(Protocol):
    """Draws the masks of a whole batch at once, on the CPU, without a Python loop over images."""

    version: ClassVar[int]
    constant_count: bool  # every image has the same number of masked patches, as encoders that drop them need
    predict: Predict  # which positions are predicted. Optional: "masked" where a masker has no such attribute

    def __call__(self, batch: int, grid: tuple[int, int], rng: torch.Generator) -> Tensor:
        """(batch, rows * columns) bool, True = masked; a function of the arguments and the generator only."""
        ...


MASKED_SHARE = 0.4  # default share of masked patches; BEiT's


def check_amount(ratio: float, count: int | None) -> None:
    """For a masker that takes either a share `ratio` of the patches or a `count` of them."""
    if not 0 < ratio < 1:
        raise ValueError(f"ratio must lie between 0 and 1, not {ratio}.")
    if count is not None and ratio != MASKED_SHARE:
        raise ValueError(f"give ratio or count, not both (ratio {ratio}, count {count}).")
    if count is not None and count < 1:
        raise ValueError(f"count must be at least 1, not {count}.")


class Tokenizer(nn.Module):
    """Turns images into targets, one per patch, without gradient."""

    version: ClassVar[int]
    target: ClassVar[str]  # "codes": (B, N) int64, or "features": (B, N, D) float
    views: ClassVar[tuple[str, ...]] = ("raw",)
    trained: ClassVar[bool] = False  # True: trained in a run of its own first, see TrainedTokenizer

    def width(self, grid: PatchGrid) -> int:
        """Number of codes, or of features per patch: the size of a prediction."""
        raise NotImplementedError

    def forward(self, batch: Batch, grid: PatchGrid) -> Tensor:
        """The targets, (B, N) codes or (B, N, D) features."""
        raise NotImplementedError


class TrainedTokenizer(Tokenizer):
    """A tokenizer that is trained in a run of its own before the pre-training."""

    trained: ClassVar[bool] = True

    def build(self, grid: PatchGrid) -> None:
        """Create the layers, once the patches are known. Called once, before training or loading."""
        raise NotImplementedError

    def training_loss(self, batch: Batch, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss at `progress` in [0, 1], and values to log (detached, still on the device)."""
        raise NotImplementedError

    def quality(self, batch: Batch, grid: PatchGrid) -> dict[str, Any]:
        """Metrics on held-out images, among them `usable` (bool) and `why` (a sentence)."""
        raise NotImplementedError


class Decoder(nn.Module):
    """Predicts the targets from the encoder's features."""

    version: ClassVar[int]
    restores_grid: ClassVar[bool]  # True: takes the visible patches only and puts mask tokens in the gaps

    def build(self, dim: int, width: int, grid: PatchGrid) -> None:
        """Create the layers: encoder dimension, size of a prediction, patches. Called once."""
        raise NotImplementedError

    def forward(self, encoded: Encoded, masks: Masks) -> Tensor:
        """(M, width): one prediction for each position in `masks.predicted`, in that order."""
        raise NotImplementedError


class Loss(Protocol):
    """Compares predictions with targets, position by position; the engine sums and divides by the global count."""

    version: ClassVar[int]
    expects: ClassVar[str]  # "codes" or "features"

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        """(M, width) float32 and (M,) codes or (M, width) features -> (M,)."""
        ...


class Encoder(Protocol):
    """What parts and engine may rely on (see models/encoder.py)."""

    dim: int
    depth: int
    grid: PatchGrid

    def __call__(self, images: Tensor, masks: Masks | None = None, taps: tuple[int, ...] = ()) -> Encoded: ...
