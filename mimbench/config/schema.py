"""What a recipe, a row and a grid are: checked dataclasses, every value coerced and every default written out."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from mimbench import registry
from mimbench.config.coerce import coerce
from mimbench.errors import UserError, unknown

PART_KINDS = ("tokenizer", "masker", "loss", "decoder")
RECIPE_KEYS = ("pretrain", *PART_KINDS, "encoder", "data", "schedule", "tokenizer_training")
MOST_TIMES_LONGER = 1000


@dataclass(frozen=True)
class EncoderConfig:
    """A Vision Transformer. `beit` has BEiT's attention: no key bias, and room for relative positions."""

    type: Literal["vit", "beit"] = "vit"
    patch: int = 16
    dim: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    positions: Literal["learned", "sincos", "none"] = "learned"
    relative_positions: Literal["none", "shared"] = "none"
    layer_scale: float | None = None
    masking: Literal["token", "drop"] = "token"
    drop_path: float = 0.0


@dataclass(frozen=True)
class DataConfig:
    """Which images, and how a training sample is drawn from one."""

    name: str = "shapes"
    size: int = 32
    images: int | None = None  # the first so many of the split; None: all of them
    crop: tuple[float, float] | None = None  # area of the random resized crop; None: the whole image
    shift: int = 0  # pixels, either way, with the border repeated
    flip: bool = True
    jitter: float = 0.0  # brightness, contrast, saturation


@dataclass(frozen=True)
class ScheduleConfig:
    """AdamW with linear warm-up and cosine decay, the same for every row of a grid."""

    steps: int = 1000
    batch: int = 64
    lr: float = 1.5e-3
    min_lr: float = 0.0
    warmup: int = 0  # steps
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float | None = 3.0
    precision: Literal["auto", "fp32", "bf16"] = "auto"


@dataclass(frozen=True)
class WrittenSchedule(ScheduleConfig):
    """As a config may have it: also as a difference that means the same at every scale."""

    longer: float = 1.0  # so many times the steps, behind the same warm-up

    def resolved(self) -> ScheduleConfig:
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(ScheduleConfig)}
        return ScheduleConfig(**{**values, "steps": round(self.steps * self.longer)})


@dataclass(frozen=True)
class TokenizerTraining(ScheduleConfig):
    """How a tokenizer that must be trained first is trained, on the recipe's images."""

    batch: int = 256
    lr: float = 1e-3
    warmup: int = 50
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.99)
    clip: float | None = None
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    crop: int | None = None  # side of the training crops in pixels; None: the whole image
    images: int | None = None  # None: as many as the pre-training sees


@dataclass(frozen=True)
class Recipe:
    """One complete pre-training, without its seed. Parts are resolved specs."""

    pretrain: bool
    tokenizer: dict[str, Any]
    masker: dict[str, Any]
    loss: dict[str, Any]
    decoder: dict[str, Any]
    encoder: EncoderConfig
    data: DataConfig
    schedule: ScheduleConfig
    tokenizer_training: TokenizerTraining


@dataclass(frozen=True)
class Row:
    name: str
    label: str
    paper: dict[str, Any] | None  # columns of the published table and the values wanted there
    recipe: Recipe
    reference: str  # the row it is compared with; the reference itself names itself


@dataclass(frozen=True)
class Evaluation:
    """The data every row is evaluated on, and settings that a --set changed (which changes the fingerprint)."""

    data: DataConfig
    segmentation_data: str
    labelled: int | None
    val: int | None
    test: int | None
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Grid:
    name: str
    title: str
    note: str
    config: str
    scale: str  # name of the scale's file
    protocol_scale: str  # the scale whose protocol settings it takes
    scale_note: str
    reference: str  # a row; of those that axes make of one, the first
    reference_label: str  # as it is called at every point of the axes
    primary: dict[str, str] | None
    seeds: tuple[int, ...]
    protocols: tuple[str, ...]
    threads: int
    rows: tuple[Row, ...]
    sets: tuple[str, ...]  # what --set changed, as written
    only_these_seeds: bool  # the file lists them: those of earlier calls do not stand beside them
    left_out: tuple[str, ...]  # rows that this scale has only if --only names them, and it does not
    chosen: tuple[str, ...]  # the rows to run
    evaluation: Evaluation
    tensorboard: bool = False  # curves for it too, as --tensorboard: no part of what is computed


T = TypeVar("T")


def dataclass_from(cls: type[T], value: Any, place: str) -> T:
    """A mapping -> a dataclass, keys and types checked."""
    if not isinstance(value, dict):
        raise UserError(f"{place}: must be a mapping, not {value!r}.")
    hints = typing.get_type_hints(cls)
    for key in value:
        if key not in hints:
            raise unknown(f"{place}.{key}", "key", str(key), hints)
    return cls(**{k: coerce(hints[k], v, f"{place}.{k}") for k, v in value.items()})


def recipe_from(value: dict[str, Any]) -> Recipe:
    """Merged layers -> a recipe. Errors are written `@path: what is wrong`, for Layers.located."""
    pretrain = coerce(bool, value.get("pretrain", True), "@pretrain")
    parts = {}
    for kind in PART_KINDS:
        if kind not in value:
            raise UserError(f"@{kind}: missing. A recipe names a {kind}, e.g. `{kind}: {{type: NAME}}`.")
        parts[kind] = registry.resolve(kind, value[kind], f"@{kind}")
    written = dataclass_from(WrittenSchedule, value.get("schedule", {}), "@schedule")
    if not 1 <= written.longer <= MOST_TIMES_LONGER:
        raise UserError(f"@schedule.longer: must be at least 1 and at most {MOST_TIMES_LONGER}, not {written.longer}.")
    schedule = written.resolved()
    training = dataclass_from(TokenizerTraining, value.get("tokenizer_training", {}), "@tokenizer_training")
    for name, config in (("schedule", schedule), ("tokenizer_training", training)):
        for key in ("steps", "batch"):
            if getattr(config, key) < 1:
                raise UserError(f"@{name}.{key}: must be at least 1, not {getattr(config, key)}.")
        if not 0 <= config.warmup <= config.steps:
            raise UserError(f"@{name}.warmup: must be between 0 and the {config.steps} steps, not {config.warmup}.")
        _check_schedule(config, f"@{name}")
    if training.images is not None and training.images < 1:
        raise UserError(
            f"@tokenizer_training.images: must be at least 1, or null for as many as the pre-training sees, not {training.images}."
        )
    encoder = dataclass_from(EncoderConfig, value.get("encoder", {}), "@encoder")
    data = data_from(value.get("data", {}), "@data")
    _check_encoder(encoder, data)
    return Recipe(pretrain, **parts, encoder=encoder, data=data, schedule=schedule, tokenizer_training=training)


def _check_schedule(config: ScheduleConfig, place: str) -> None:
    if config.lr <= 0:
        raise UserError(f"{place}.lr: must be greater than 0, not {config.lr}.")
    if not all(0 <= beta < 1 for beta in config.betas):
        raise UserError(f"{place}.betas: must be at least 0 and less than 1, not {list(config.betas)}.")
    for key in ("min_lr", "weight_decay"):
        if getattr(config, key) < 0:
            raise UserError(f"{place}.{key}: must not be negative.")
    if config.min_lr > config.lr:
        raise UserError(f"{place}.min_lr: must be at most lr, {config.lr}, and not {config.min_lr}.")
    if config.clip is not None and config.clip <= 0:
        raise UserError(f"{place}.clip: must be greater than 0, or null for none.")


def data_from(value: Any, place: str) -> DataConfig:
    """A mapping -> which images, and how they are drawn: checked."""
    data = dataclass_from(DataConfig, value, place)
    for key in ("size", "images"):
        number = getattr(data, key)
        if number is not None and number < 1:
            raise UserError(f"{place}.{key}: must be at least 1, not {number}.")
    if data.crop is not None and not 0 < data.crop[0] <= data.crop[1] <= 1:
        raise UserError(
            f"{place}.crop: must be the smallest and the largest share of the image's area, above 0 and at most 1, "
            f"not {list(data.crop)}."
        )
    if not 0 <= data.shift < data.size:
        raise UserError(f"{place}.shift: must be at least 0 and less than the {data.size} pixels, not {data.shift}.")
    if not 0 <= data.jitter <= 1:
        raise UserError(f"{place}.jitter: must be between 0 and 1, not {data.jitter}.")
    return data


def _check_encoder(encoder: EncoderConfig, data: DataConfig) -> None:
    for key in ("patch", "dim", "depth", "heads"):
        if getattr(encoder, key) < 1:
            raise UserError(f"@encoder.{key}: must be at least 1, not {getattr(encoder, key)}.")
    if not 0 <= encoder.drop_path < 1:
        raise UserError(f"@encoder.drop_path: must be at least 0 and less than 1, not {encoder.drop_path}.")
    if encoder.dim * encoder.mlp_ratio < 1:
        raise UserError(
            f"@encoder.mlp_ratio: must leave at least 1 of {encoder.dim} features, not {encoder.mlp_ratio}."
        )
    if encoder.layer_scale is not None and encoder.layer_scale <= 0:
        raise UserError(f"@encoder.layer_scale: must be greater than 0, or null for none, not {encoder.layer_scale}.")
    if data.size % encoder.patch:
        raise UserError(f"@encoder.patch: {encoder.patch} does not divide the image size {data.size} (data.size).")
    if encoder.dim % encoder.heads:
        raise UserError(f"@encoder.heads: {encoder.heads} does not divide the dimension {encoder.dim}.")
    if encoder.positions == "sincos" and encoder.dim % 4:
        raise UserError(f"@encoder.dim: sin-cos positions need a multiple of 4, not {encoder.dim}.")
    if encoder.type == "vit" and encoder.relative_positions != "none":
        raise UserError("@encoder.relative_positions: only the encoder type 'beit' has them.")
    if encoder.relative_positions != "none" and encoder.masking == "drop":
        raise UserError("@encoder.masking: 'drop' leaves no grid for relative positions; use 'token'.")


def as_spec(config: Any) -> dict[str, Any]:
    """A config dataclass as plain JSON values (tuples become lists)."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(config).items()}
