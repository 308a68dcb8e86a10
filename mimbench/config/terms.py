"""What a recipe may say beyond a flat one: views, a teacher, terms."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from mimbench.config.coerce import Checked
from mimbench.config.ranges import Count, NotNegative, PositiveShare, Range, Share
from mimbench.errors import UserError

TERM_PARTS = ("tokenizer", "decoder", "loss")  # the recipe's own are the defaults of every term
OF_THE_SIDE = Range("greater than 0 and at most 1, the side of the image (data.size)", lambda share: 0 < share <= 1)
LINKS = ("same_as", "after")  # keys of a decoder that name another term


@dataclass(frozen=True)
class ViewConfig(Checked):
    """A named rendering of a sample. Its size is a share of data.size, so that a recipe fits every scale."""

    share: Annotated[float, OF_THE_SIDE] = 1.0  # of the side, rounded to whole patches
    count: Count = 1  # copies, each drawn on its own: NAME.0, NAME.1, ...
    masked: bool = True  # the student sees it through the masker
    crop: tuple[PositiveShare, PositiveShare] | None = field(  # area of the random resized crop; None: the whole image
        default=None, metadata={"version": 2}
    )
    flip: bool = True
    jitter: tuple[Share, Share, Share, Share] = (0.0, 0.0, 0.0, 0.0)  # brightness, contrast, saturation, hue
    jitter_chance: Share = 1.0
    gray: Share = 0.0  # chance
    blur: tuple[Share, ...] = (0.0,)  # chance, one for all copies or one per copy
    solarize: tuple[Share, ...] = (0.0,)

    def check(self, place: str) -> None:
        if self.crop is not None and self.crop[0] > self.crop[1]:
            raise UserError(f"{place}.crop: must be the smallest area, then the largest, not {list(self.crop)}.")
        for key in ("blur", "solarize"):
            if len(getattr(self, key)) not in (1, self.count):
                raise UserError(f"{place}.{key}: must be one chance, or one for each of the {self.count} copies.")


@dataclass(frozen=True)
class TeacherConfig(Checked):
    """A second encoder, with copies of the decoders: a moving average of the student's, or another row's, frozen."""

    momentum: Share = 0.996
    end: Share = 1.0
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    row: str | None = None  # frozen: the encoder of that row, same seed
    sees: Literal["all", "hidden"] = field(
        default="all", metadata={"neutral": "all"}
    )  # hidden: what the student does not
    keep: Literal["teacher", "student"] = "teacher"  # which encoder leaves the run
    weights: str | None = field(default=None, metadata={"neutral": None})  # frozen: FILE, timm:NAME or hf:NAME

    def check(self, place: str) -> None:
        if self.row is not None and self.weights is not None:
            raise UserError(
                f"{place}: name one of row and weights, not both (row '{self.row}', weights '{self.weights}')."
            )
        frozen = f"of row '{self.row}'" if self.weights is None else f"'{self.weights}'"
        if (self.row or self.weights) is not None and self.keep == "teacher":
            raise UserError(f"{place}.keep: must be student: the teacher {frozen} is not trained here.")


@dataclass(frozen=True)
class OtherEncoder(Checked):
    """Another row's encoder, of the same seed, or a checkpoint's: a tokenizer learns from it, or training begins with it."""

    row: str | None = None
    weights: str | None = None  # FILE, timm:NAME or hf:NAME

    def check(self, place: str) -> None:
        if (self.row is None) == (self.weights is None):
            raise UserError(f"{place}: name one of row (a row of the grid) and weights (a checkpoint).")


@dataclass(frozen=True)
class TermConfig:
    """One summand of the objective: the predictions of some views compared with the targets of some."""

    tokenizer: dict[str, Any]
    # with `same_as: TERM`, that term's decoder, or the one it predicts with; `after: TERM`: it reads that term's predictions
    decoder: dict[str, Any]
    loss: dict[str, Any]
    level: Literal["patch", "image"] = "patch"
    views: tuple[str, ...] = field(default=())  # empty: all
    targets: tuple[str, ...] = field(default=())  # empty: the same as views
    weight: NotNegative = 1.0


def without_links(decoder: dict[str, Any]) -> dict[str, Any]:
    """A decoder's spec without the terms that it names."""
    return {key: value for key, value in decoder.items() if key not in LINKS}
