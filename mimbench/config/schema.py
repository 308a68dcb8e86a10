"""The dataclasses of a recipe, a row and a grid, with the range of every field; defaults are written out."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar

from mimbench.config.coerce import Checked
from mimbench.config.nested import Nested as Nested
from mimbench.config.ranges import (
    Count,
    Exempt,
    Fraction,
    NotNegative,
    Positive,
    PositiveShare,
    Share,
    Whole,
    between,
)
from mimbench.config.search import Search
from mimbench.config.swin import check_swin
from mimbench.config.terms import OtherEncoder, TeacherConfig, TermConfig, ViewConfig
from mimbench.errors import UserError

MAX_WEIGHTS = 2e10  # of the blocks of an encoder, which is built before anything is computed
ONLY = "image"  # the one term, and the one view, of a flat recipe
PART_KINDS = ("tokenizer", "masker", "loss", "decoder")
RECIPE_KEYS = ("pretrain", "start", *PART_KINDS, "terms", "views", "teacher", "encoder", "data", "schedule",
               "tokenizer_training")  # fmt: skip


@dataclass(frozen=True)
class EncoderConfig(Checked):
    """A Vision Transformer. `beit` has BEiT's attention: no key bias, and optional relative positions.

    `swin`: patch, dim and heads are those of its last stage, whose cell is what is masked; depth counts all blocks.
    """

    type: Literal["vit", "beit", "swin"] = "vit"
    patch: Count = 16
    dim: Count = 768
    depth: Annotated[int, between(1, 1000)] = 12
    heads: Count = 12
    mlp_ratio: Positive = 4.0
    positions: Literal["learned", "sincos", "none"] = "learned"
    relative_positions: Literal["none", "shared", "per_block"] = "none"  # one table for all blocks, or one for each
    layer_scale: Positive | None = None
    masking: Literal["token", "drop", "none"] = "token"  # none: no view is masked
    drop_path: Fraction = 0.0
    attention: Literal["full", "causal"] = field(default="full", metadata={"neutral": "full"})
    class_token: bool = field(default=True, metadata={"neutral": True})
    registers: Whole = field(default=0, metadata={"neutral": 0})  # tokens beside the class token that nobody reads
    norm_eps: Positive = field(default=1e-6, metadata={"neutral": 1e-6})  # of every LayerNorm
    normalization: Literal["imagenet", "half", "clip"] = field(default="imagenet", metadata={"neutral": "imagenet"})
    init: Literal["xavier", "beit"] = field(default="xavier", metadata={"neutral": "xavier"})
    zero_mask_token: bool = field(
        default=False, metadata={"neutral": False}
    )  # where it starts; else at random, as cls_token
    frozen_patches: bool = field(
        default=False, metadata={"neutral": False}
    )  # in pre-training the patch embedding stays random
    stages: tuple[Count, ...] = field(default=(), metadata={"neutral": ()})  # of a Swin: the blocks of each
    window: Count | None = field(default=None, metadata={"neutral": None})  # of a Swin: side in cells

    def check(self, place: str) -> None:
        check_swin(self, place)
        if self.dim * self.mlp_ratio < 1:
            raise UserError(f"{place}.mlp_ratio: {self.mlp_ratio} leaves no feature of dim {self.dim}.")
        if (count := self.depth * self.dim**2 * (4 + 2 * self.mlp_ratio)) > MAX_WEIGHTS:
            raise UserError(f"{place}: about {count:.1g} weights; an encoder has at most {MAX_WEIGHTS:.0e}.")
        if self.dim % self.heads:
            raise UserError(f"{place}.heads: {self.heads} does not divide dim {self.dim}.")
        if self.positions == "sincos" and self.dim % 4:
            raise UserError(f"{place}.dim: sin-cos positions need a multiple of 4, not {self.dim}.")
        if self.zero_mask_token and self.masking != "token":
            raise UserError(
                f"{place}.zero_mask_token: there is no mask token with masking '{self.masking}'; use 'token'."
            )
        if self.type == "vit" and self.relative_positions != "none":
            raise UserError(f"{place}.relative_positions: only the encoder type 'beit' has them.")
        if self.relative_positions != "none" and self.masking == "drop":
            raise UserError(f"{place}.masking: 'drop' leaves no grid for relative positions; use 'token'.")
        if self.attention == "causal" and (self.type != "vit" or self.masking != "none"):
            raise UserError(f"{place}.attention: 'causal' needs the encoder type 'vit' and masking 'none'.")
        plain = self.class_token and not self.registers
        if not plain and self.type != "swin" and (self.type != "vit" or self.attention == "causal"):
            key = "registers" if self.class_token else "class_token"
            raise UserError(f"{place}.{key}: needs the encoder type 'vit' and attention 'full'.")


@dataclass(frozen=True)
class DataConfig(Checked):
    """Which images, and how a training sample is drawn from one."""

    name: str = "shapes"
    size: Count = 32
    images: Count | None = None  # the first of the split; None: all
    crop: tuple[PositiveShare, PositiveShare] | None = field(  # smallest and largest area; None: the whole image
        default=None, metadata={"version": 2}
    )
    shift: Whole = 0  # random shift in pixels in each direction, with the border repeated
    flip: bool = True
    jitter: Share = 0.0  # brightness, contrast, saturation

    def check(self, place: str) -> None:
        if self.crop is not None and self.crop[0] > self.crop[1]:
            raise UserError(f"{place}.crop: must be the smallest area, then the largest, not {list(self.crop)}.")
        if self.shift >= self.size:
            raise UserError(f"{place}.shift: must be less than size ({self.size} pixels), not {self.shift}.")


NO_DECAY: Exempt = ("vectors", "pos_embed", "cls_token", "mask_token", "reg_token")


@dataclass(frozen=True)
class ScheduleConfig(Checked):
    """AdamW with linear warm-up and a decay, the same for every row of a grid."""

    steps: Count = 1000
    batch: Count = 64
    lr: Positive = 1.5e-3
    min_lr: NotNegative = 0.0
    warmup: Whole = 0  # steps
    weight_decay: NotNegative = 0.05
    betas: tuple[Fraction, Fraction] = (0.9, 0.98)
    clip: Positive | None = 3.0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    weight_decay_end: NotNegative | None = field(default=None, metadata={"neutral": None})  # reached by half a cosine
    decay: Literal["cosine", "linear", "step"] = field(default="cosine", metadata={"neutral": "cosine"})
    drops: tuple[Fraction, ...] = field(default=(), metadata={"neutral": ()})  # shares of the steps: then a tenth of lr
    no_decay: Exempt = field(default=NO_DECAY, metadata={"neutral": NO_DECAY})  # vectors: biases, norms, LayerScale

    def check(self, place: str) -> None:
        if self.warmup > self.steps:
            raise UserError(f"{place}.warmup: must be at most steps ({self.steps}), not {self.warmup}.")
        if self.min_lr > self.lr:
            raise UserError(f"{place}.min_lr: must be at most lr ({self.lr}), not {self.min_lr}.")
        if (self.decay == "step") != bool(self.drops):
            raise UserError(f"{place}.drops: decay 'step' needs at least one share of the steps, other decays none.")


@dataclass(frozen=True)
class WrittenSchedule(ScheduleConfig):
    """A schedule as written in YAML: the number of steps may be a multiple of the scale's."""

    steps_multiplier: Annotated[float, between(0.001, 1000)] = (
        1.0  # a warm-up keeps its steps, or in shorter ones its share
    )

    def resolved(self) -> ScheduleConfig:
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(ScheduleConfig)}
        warmup = round(self.warmup * min(1.0, self.steps_multiplier))
        return ScheduleConfig(
            **{**values, "steps": max(1, round(self.steps * self.steps_multiplier)), "warmup": warmup}
        )

    def check(self, place: str) -> None:
        self.resolved().check(place)


@dataclass(frozen=True)
class TokenizerTraining(ScheduleConfig):
    """How a tokenizer that must be trained first is trained, on the recipe's images."""

    batch: Count = 256
    lr: Positive = 1e-3
    warmup: Whole = 50
    weight_decay: NotNegative = 0.0
    betas: tuple[Fraction, Fraction] = (0.9, 0.99)
    clip: Positive | None = None
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    crop: Count | None = None  # side of the training crops in pixels; None: the whole image
    images: Count | None = None  # None: as many as the pre-training sees
    teacher: OtherEncoder | None = field(default=None, metadata={"neutral": None})  # an edge, never in a spec


@dataclass(frozen=True)
class Checkpoint(Checked):
    """`pretrain: {weights: FILE | timm:NAME | hf:NAME}`: the row is that checkpoint; `{finetuned: ROW}`: what that row became."""

    weights: str | None = None
    finetuned: str | None = None

    def check(self, place: str) -> None:
        if (self.weights is None) == (self.finetuned is None):
            raise UserError(f"{place}: name one of weights (a file) and finetuned (a row).")


@dataclass(frozen=True)
class Recipe:
    """One complete pre-training, without its seed. Parts are resolved specs. A flat recipe is one term."""

    pretrain: bool
    weights: str | None  # nothing is trained: the encoder is this checkpoint
    stated: dict[str, Any]  # what a row that is not trained says of its encoder; where it is from says the rest
    finetuned: str | None  # nothing is trained: the encoder is what that row was fine-tuned to, of the same seed
    start: OtherEncoder | None  # training begins from it
    masker: dict[str, Any]
    terms: dict[str, TermConfig]
    flat: bool
    views: dict[str, ViewConfig]
    teacher: TeacherConfig | None
    encoder: EncoderConfig
    data: DataConfig
    schedule: ScheduleConfig
    tokenizer_training: TokenizerTraining

    @property
    def untrained(self) -> bool:
        """A random encoder: neither pre-trained here nor a checkpoint nor what another row became."""
        return not (self.pretrain or self.weights or self.finetuned)


@dataclass(frozen=True)
class Row:
    name: str
    label: str
    paper: dict[str, Any] | None  # which published number to show: columns of the published table -> values
    recipe: Recipe
    reference: str  # the row it is compared with; a reference names itself
    budgeted: bool = False  # how long it trains follows from the grid's budget of FLOPs
    improves: str | None = None  # the protocol, named before any run, in which it should exceed its reference
    searched: bool = False  # its learning rate is left to a search
    point: dict[str, Any] = field(default_factory=dict)  # of the axes, by their short names
    sources: dict[str, str] = field(default_factory=dict, compare=False)  # dotted key -> the file and place that set it


@dataclass(frozen=True)
class Counts:
    """Images of each split; None: all of it."""

    labeled: Count | None = None
    val: Count | None = None
    test: Count | None = None


@dataclass(frozen=True)
class Evaluation(Checked):
    """The data that every row is evaluated on."""

    data: DataConfig = field(default_factory=DataConfig)
    segmentation_data: str | None = None  # None: masks of `data`
    labeled: Count | None = None  # images; None: all of the split
    val: Count | None = None
    test: Count | None = None
    segmentation: Counts | None = None  # images with masks; None: as many as without

    def counts(self) -> Counts:
        return Counts(self.labeled, self.val, self.test)

    def segmentation_counts(self) -> Counts:
        return self.segmentation or self.counts()

    def check(self, place: str) -> None:
        if self.data.images is not None:
            raise UserError(f"{place}.data.images: not allowed; use `labeled`, `val` and `test` beside `data`.")


@dataclass(frozen=True)
class Grid:
    name: str
    title: str
    note: str
    config: str
    scale: str  # name of the scale's file
    scale_file: str
    scale_note: str
    reference: str  # a row; where axes vary it, its first point
    reference_label: str
    primary: dict[str, str] | None
    seeds: tuple[int, ...]
    only_these_seeds: bool  # the file lists them: the record drops seeds of earlier calls
    protocols: tuple[str, ...]
    scale_settings: dict[str, dict[str, Any]]  # of protocols, by the scale's file
    settings: dict[str, dict[str, Any]]  # of protocols, changed by --set
    threads: int
    rows: tuple[Row, ...]
    chosen: tuple[str, ...]  # the rows to run
    sets: tuple[str, ...]  # --set options, as written
    evaluation: Evaluation
    data: str | None = None  # of the command line: counts of images are at most what it has
    only_protocols: tuple[str, ...] = ()  # those to run; empty: all
    tensorboard: bool = False  # write curves for TensorBoard too; not part of what is computed
    nested: Nested = field(default_factory=Nested)  # which stages seeds share
    teachers: tuple[Row, ...] = ()  # checkpoints that teach rows: imported, and not evaluated
    sizes: str = ""  # the scale's key in files that have values by scale: `trial` is `tiny` on other images
    budget_row: str | None = None  # all rows train for the FLOPs of this one
    search: Search | None = None  # of learning rates
    searched: str = ""  # what to say of the search in which the rows' learning rates were chosen

    @property
    def by_name(self) -> dict[str, Row]:
        """The rows, and the checkpoints that teach them."""
        return {row.name: row for row in (*self.rows, *self.teachers)}


T = TypeVar("T")


def as_spec(config: Any) -> dict[str, Any]:
    """A config dataclass as plain JSON values, without fields added later that have their neutral value.

    Such a field is declared `field(default=..., metadata={"neutral": value})`: old runs keep their names. One whose meaning
    changed has `metadata={"version": n}`, which stands beside its value where it is set: only those runs are renamed.
    """
    spec: dict[str, Any] = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if "neutral" not in item.metadata or value != item.metadata["neutral"]:
            spec[item.name] = list(value) if isinstance(value, tuple) else value
        if "version" in item.metadata and value is not None:
            spec[f"{item.name}_version"] = item.metadata["version"]
    return spec


def from_spec(cls: type[T], spec: dict[str, Any]) -> T:
    """A config dataclass from a run's spec, which may hold more keys."""
    values = {}
    for item in dataclasses.fields(cls):  # type: ignore[arg-type]
        if item.name in spec or "neutral" in item.metadata:
            value = spec.get(item.name, item.metadata.get("neutral"))
            values[item.name] = tuple(value) if isinstance(value, list) else value
    return cls(**values)
