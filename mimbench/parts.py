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

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from mimbench import compat as compat  # parts may use timm and torchvision

Batch = Mapping[str, Tensor]
"""One view of a batch: `image` (B, 3, H, W), normalized, as the encoder sees it; `raw`, the same in [0, 1]; `label` (B,).
A tokenizer declares what it reads in `views`."""
Level = Literal["patch", "image"]


FILE = "sha256:"  # begins what a spec has in place of a file's path


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
    norm: Callable[[Tensor], Tensor] = lambda x: x  # the encoder's last LayerNorm


@dataclass(frozen=True)
class Masks:
    """One batch of masks, with positions computed on the CPU so that no step waits for the device."""

    masked: Tensor  # (B, N) bool, True = masked
    predicted: Tensor  # (M,) int64: flat positions in B x N that are predicted
    kept: Tensor | None  # (B, K) int64 visible positions, where the encoder drops masked patches
    total: int  # predicted positions of the whole global batch
    blocks: Tensor | None = None  # (B, T, P) positions of the blocks to predict; `predicted` lists them in this order
    weight: Tensor | None = (
        None  # (M,) of each position, for a loss that lets images count alike; None: 1 / their number
    )
    noise: Tensor | None = (
        None  # (B, N) of a GuidedMasker: where the teacher looks, added to it, decides what is visible
    )
    hidden: int = 0  # with noise: masked patches of each image

    def to(self, device: torch.device) -> Masks:
        moved: dict[str, Any] = {
            k: v.to(device, non_blocking=True) for k, v in vars(self).items() if isinstance(v, Tensor)
        }
        return replace(self, **moved)


@dataclass(frozen=True)
class Taught:
    """What the teacher makes of a view."""

    encoded: Encoded
    head: Any  # the teacher's copy of the term's decoder; None where the teacher is another row's encoder.
    progress: float  # of the training, in [0, 1]


def picked(encoded: Encoded, masks: Masks | None) -> Tensor:
    """(M, D): the features at the predicted positions; without masks (B, D): the class token."""
    return encoded.cls if masks is None else encoded.patches.flatten(0, 1).index_select(0, masks.predicted)


Predict = Literal["masked", "all"]


class Masker(Protocol):
    """Draws the masks of a whole batch at once, on the CPU, without a Python loop over images."""

    version: ClassVar[int]
    constant_count: bool  # every image has the same number of masked patches, as encoders that drop them need
    predict: Predict | float  # which positions are predicted, or which share of the masked ones. Optional: "masked"

    def __call__(self, batch: int, grid: tuple[int, int], rng: torch.Generator) -> Tensor:
        """(batch, rows * columns) bool, True = masked; a function of the arguments and the generator only."""
        ...


class BlockMasker(Masker, Protocol):
    """A masker that also says which blocks are predicted, each by itself; then they are what is predicted."""

    def blocks(self, batch: int, grid: tuple[int, int], rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """What is masked, and the positions of the blocks, (batch, T, P)."""
        ...


class GuidedMasker(Masker, Protocol):
    """A masker with a constant count that follows the teacher: most visible is where its class token looks.

    Visible are the patches with the largest sums of noise and log attention; without attention, of noise alone.
    """

    def noise(self, batch: int, grid: tuple[int, int], rng: torch.Generator) -> Tensor:
        """(batch, rows * columns) float; a call with the same generator hides the patches with the smallest."""
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


def check_predict(predict: Predict | float) -> None:
    """For a masker of which a share of the masked patches may be predicted."""
    if isinstance(predict, float) and not 0 < predict < 1:
        raise ValueError(f"predict must be masked, all or a share between 0 and 1, not {predict}.")


class Tokenizer(nn.Module):
    """Turns images into targets, one per patch, without gradient."""

    version: ClassVar[int]
    target: ClassVar[str]  # codes: (B, N) int64; features: (B, N, D) float; distribution: the same, rows sum to 1
    levels: ClassVar[tuple[Level, ...]] = ("patch",)  # image: one target per image, without the dimension N
    views: ClassVar[tuple[str, ...]] = ("raw",)
    stride: int | None = None  # pixels of its views per token; None: the encoder's patch, and the encoder's own views
    reads: ClassVar[Literal["views", "teacher", "student"]] = "views"  # see TeacherTokenizer, StudentTokenizer
    trained: ClassVar[bool] = False  # True: trained in a run of its own first, see TrainedTokenizer
    files: ClassVar[tuple[str, ...]] = ()  # arguments that are paths; a run's spec has the sha256 of their content
    # optional, for pictures: `decode(targets, batch, grid)`, (B, N) codes or (B, N, D) features -> the images that they stand
    # for, (B, C, H, W) in [0, 1] but for rounding. `batch` has what targets leave out, such as the mean of each patch

    def load(self) -> None:
        """Read `files`; a ValueError for one that does not suit. Called once, before `width`."""

    def width(self, grid: PatchGrid) -> int:
        """Number of codes, or of features per patch: the size of a prediction."""
        raise NotImplementedError

    def forward(self, batch: Batch, grid: PatchGrid) -> Tensor:
        """The targets, (B, N) codes or (B, N, D) features."""
        raise NotImplementedError


class TrainedTokenizer(Tokenizer):
    """A tokenizer that is trained in a run of its own before the pre-training.

    With `needs_teacher`, it learns from a frozen encoder, which `tokenizer_training: {teacher: ...}` names. What only the
    training needs is created in `learn_from`, and does not leave the run.
    """

    trained: ClassVar[bool] = True
    needs_teacher: bool = False
    begins_with_vectors: ClassVar[bool] = False  # True: its codes begin as vectors of one step, which needs as many
    at_once: ClassVar[bool] = False  # True: `find` gives all that it learns, without steps and gradients

    def build(self, grid: PatchGrid) -> None:
        """Create the layers, once the patches are known. Called once, before training or loading."""
        raise NotImplementedError

    def learn_from(self, teacher: Encoder) -> None:
        """The teacher, in eval mode, whose parameters get no gradient. Called once, after `build`, before the training."""

    def find(self, raw: Tensor) -> None:
        """With `at_once`: learn from some images of the training, (B, 3, H, W) in [0, 1], in place of steps."""

    def training_loss(self, batch: Batch, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss at `progress` in [0, 1], and values to log (detached, still on the device)."""
        raise NotImplementedError

    def quality(self, batch: Batch, grid: PatchGrid) -> dict[str, Any]:
        """Metrics on held-out images, among them `usable` (bool) and `why` (a sentence)."""
        raise NotImplementedError

    def after_step(self, world: int) -> None:
        """Once per optimizer step of the training: statistics of all micro-batches and ranks, such as codes."""


class TeacherTokenizer(Tokenizer):
    """Targets from the recipe's teacher, which sees the whole image."""

    reads = "teacher"
    whole_batch: bool = False  # its targets compare the images of the whole batch
    by_place: ClassVar[bool] = False  # and only patches of one place with one another
    needs_head: ClassVar[bool] = False  # it reads `Taught.head`, which a teacher of another row does not have
    needs_rows: ClassVar[bool] = False  # it asks that head for single positions: the decoder must have `rows`

    def build(self, dim: int, depth: int) -> None:
        """The teacher's dimension and number of blocks. Called once, before `width`."""
        self.dim, self.depth = dim, depth

    def taps(self) -> tuple[int, ...]:
        """Blocks of the teacher whose raw output is read."""
        return ()

    def forward(self, taught: Taught, masks: Masks | None, level: Level) -> Tensor:  # type: ignore[override]
        """(B, N, width) of all patches, or (B, width)."""
        raise NotImplementedError

    def own_loss(self, taught: Taught, target: Tensor) -> Tensor | None:
        """A loss of the tokenizer's own parameters, if it learns while it is used. `target`: what it gave for this view."""
        return None

    def own_optimizer(self) -> dict[str, Any]:
        """AdamW's settings for these parameters: constant, not clipped."""
        return {}

    def after_step(self, world: int) -> None:
        """Once per optimizer step: statistics of all micro-batches and ranks, such as centers."""


class StudentTokenizer(Tokenizer):
    """The target of a view is the model's own prediction of it, with gradient; other views are compared with it."""

    reads = "student"
    levels: ClassVar[tuple[Level, ...]] = ("image",)

    def build(self, dim: int, depth: int) -> None:
        """The encoder's dimension and number of blocks. Called once, before `width`."""
        self.dim, self.depth = dim, depth


class Decoder(nn.Module):
    """Predicts the targets from the encoder's features."""

    version: ClassVar[int]
    whole_batch: ClassVar[bool] = False  # an image's prediction depends on the others of the batch
    needs_blocks: ClassVar[bool] = False  # a BlockMasker's
    needs_constant_count: ClassVar[bool] = False  # of the masker
    needs_last: ClassVar[bool] = False  # it predicts with the decoder that `same_as` names only
    keeps_width: ClassVar[bool] = False  # its predictions are as wide as the features it reads
    restores_grid: ClassVar[bool]  # True: takes the visible patches only and puts mask tokens in the gaps
    levels: ClassVar[tuple[Level, ...]] = ("patch",)
    # optional: `rows(features)`, (..., D) -> (..., width), where each prediction needs the features of its own position only.
    # Causal attention and tokenizers with `needs_rows` ask for it

    def build(self, dim: int, width: int, grid: PatchGrid, last: Decoder | None = None) -> None:
        """Create the layers: dimension of the features, size of a prediction, patches. Called once.

        `last`: the decoder of the term that `same_as` names, whose last layers predict for this one too. With `after: TERM`
        the features are that term's predictions at their places, with zeros at the others, in place of the encoder's patches.
        """
        raise NotImplementedError

    def check(self, dim: int) -> None:
        """Raise a ValueError for an encoder dimension that does not suit. Called while planning, without `build`."""

    def taps(self, depth: int) -> tuple[int, ...]:
        """Blocks of the encoder whose raw output is read."""
        return ()

    def forward(self, encoded: Encoded, masks: Masks | None) -> Tensor:
        """(M, width): one prediction for each position in `masks.predicted`, in that order; without masks (B, width)."""
        raise NotImplementedError

    def taught(self, encoded: Encoded, masks: Masks | None) -> Tensor:
        """What the teacher's copy computes: without the layers that only the student has, such as a predictor."""
        return self(encoded, masks)

    def after_backward(self, progress: float) -> None:
        """May drop gradients, such as those of a frozen last layer."""


class Loss(Protocol):
    """Compares predictions with targets, position by position; the engine sums and divides by the global count."""

    version: ClassVar[int]
    expects: ClassVar[str]  # codes, features or distribution
    # optional: `average = "images"` gives every image the same weight, however many of its positions are predicted

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        """(M, width) float32 and (M,) codes or (M, width) features -> (M,)."""
        ...


class WholeBatchLoss(Protocol):
    """Compares the predictions of all images of the global batch with all their targets."""

    version: ClassVar[int]
    expects: ClassVar[str]
    whole_batch: ClassVar[bool]  # True

    def __call__(self, predictions: Tensor, targets: Tensor, mine: slice) -> Tensor:
        """(G, width) twice, in the order of ranks, and which rows are this rank's -> (B,), of this rank's images."""
        ...


class Encoder(Protocol):
    """What parts and engine may rely on (see models/encoder.py)."""

    dim: int
    depth: int
    grid: PatchGrid

    def __call__(self, images: Tensor, masks: Masks | None = None, taps: tuple[int, ...] = ()) -> Encoded: ...
