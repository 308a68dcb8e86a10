"""YAML -> checked dataclasses: `base:` (one level), then the scale, then the row, then --set.

Every value is coerced to its annotated type and every default is written out here, before anything is hashed.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib.resources
import itertools
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from mimbench import registry
from mimbench.coerce import coerce
from mimbench.errors import UserError, unknown

PART_KINDS = ("tokenizer", "masker", "loss", "decoder")


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
class TokenizerTraining:
    """How a tokenizer that must be trained first is trained: on crops of the recipe's images."""

    steps: int = 1000
    batch: int = 256
    lr: float = 1e-3
    min_lr: float = 0.0
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
    scale: str
    scale_note: str
    reference: str
    primary: dict[str, str] | None
    seeds: tuple[int, ...]
    protocols: tuple[str, ...]
    threads: int
    rows: tuple[Row, ...]
    chosen: tuple[str, ...]  # the rows to run: all, or those that --only names
    evaluation: Evaluation


GRID_KEYS = ("name", "title", "note", "base", "scale", "seeds", "protocols", "reference", "primary", "rows", "axes")
RECIPE_KEYS = ("pretrain", *PART_KINDS, "encoder", "data", "schedule", "tokenizer_training")
ROW_KEYS = ("name", "label", "paper", "base", *RECIPE_KEYS)
SCALE_KEYS = ("scale", "note", "threads", "parts", "evaluation", *RECIPE_KEYS)


# reading files


class _Loader(yaml.SafeLoader):
    """YAML that refuses a key written twice."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node)
        if isinstance(key, str | int | float | bool) and key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key '{key}' is written twice", key_node.start_mark
            )
        seen.add(str(key) if not isinstance(key, str | int | float | bool) else key)
    return dict(loader.construct_mapping(node, deep=True))


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_yaml(path: Path) -> dict[str, Any]:
    try:
        value = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from error
    except (RecursionError, ValueError, TypeError) as error:
        raise UserError(f"{path}: not readable as YAML: {error}") from error
    if not isinstance(value, dict) or not all(isinstance(k, str) for k in value):
        raise UserError(f"{path}: must hold a mapping of names to values.")
    return value


def packaged(folder: str = "") -> Path:
    """The configs that travel with the package (and are the checkout's own where it is installed editable)."""
    installed = Path(str(importlib.resources.files("mimbench"))) / "configs"
    root = installed if installed.is_dir() else Path(__file__).parent.parent / "configs"
    return root / folder


def find(name: str, folder: str = "", beside: Path | None = None) -> Path:
    """A config by path, or by name: beside the file that names it, or among those that ship."""
    candidates = [Path(name)] if beside is None else [beside.parent / name, beside.parent / folder / name]
    for root in (*candidates, packaged(folder) / name, packaged() / name):
        for path in (root, root.with_name(root.name + ".yaml")):
            if path.is_file():
                return path
    shipped = [p.stem for p in packaged(folder).glob("*.yaml")]
    raise unknown(f"{beside or 'mimbench'}", f"config in configs/{folder}" if folder else "config", name, shipped)


# merging layers, remembering which file said what


class Layers:
    """Mappings merged in order; `sources` tells for each dotted path which file set it last."""

    def __init__(self) -> None:
        self.value: dict[str, Any] = {}
        self.sources: dict[str, str] = {}

    def add(self, layer: dict[str, Any], source: str) -> None:
        self._merge(self.value, layer, "", source)

    def _merge(self, target: dict[str, Any], layer: dict[str, Any], prefix: str, source: str) -> None:
        for key, value in layer.items():
            path = f"{prefix}{key}"
            old = target.get(key)
            if isinstance(value, str) and prefix == "" and key in PART_KINDS:
                value = {"type": value}
            # another type takes none of the former type's arguments
            retyped = (
                isinstance(value, dict)
                and isinstance(old, dict)
                and value.get("type", old.get("type")) != old.get("type")
            )
            if isinstance(value, dict) and isinstance(old, dict) and not (retyped and key in PART_KINDS):
                self._merge(old, value, f"{path}.", source)
            else:
                target[key] = copy.deepcopy(value)
                self._note(path, value, source)

    def _note(self, path: str, value: Any, source: str) -> None:
        self.sources[path] = source
        if isinstance(value, dict):
            for key, inner in value.items():
                self._note(f"{path}.{key}", inner, source)

    def located(self, error: UserError) -> UserError:
        """Put the file before an error that only knows its path, written `@path: what is wrong`."""
        text = str(error)
        if not text.startswith("@"):
            return error
        path, _, rest = text[1:].partition(":")
        parts = path.split(".")
        for length in range(len(parts), 0, -1):
            source = self.sources.get(".".join(parts[:length]))
            if source:
                return UserError(f"{source}{path}:{rest}")
        return UserError(f"{path}:{rest}")


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


# a grid


def load_grid(
    name: str,
    *,
    scale: str | None = None,
    seeds: int | None = None,
    only: tuple[str, ...] = (),
    sets: tuple[str, ...] = (),
) -> Grid:
    """Read a grid file and everything it refers to; all errors come before any compute."""
    path = find(name)
    raw = read_yaml(path)
    for key in raw:
        if key not in GRID_KEYS:
            raise unknown(f"{path}", "key", key, GRID_KEYS)
    scale_name = coerce(str, scale or raw.get("scale", "tiny"), f"{path}: scale")
    scale_path = find(scale_name, "scales", path)
    scale_raw = read_yaml(scale_path)
    for key in scale_raw:
        if key not in SCALE_KEYS:
            raise unknown(f"{scale_path}", "key", key, SCALE_KEYS)
    settings = [_parse_set(s) for s in sets]
    overrides = {k.partition(".")[2]: v for k, v in settings if k.startswith("protocols.")}
    recipe_sets = [(k, v) for k, v in settings if not k.startswith("protocols.")]
    expanded = _expand(raw, path)
    names = tuple(row["name"] for row, _ in expanded)
    for row_name in only:
        if row_name not in names:
            raise unknown(f"{path}: --only", "row", row_name, names)
    rows = tuple(_row(r, place, raw, path, scale_raw, scale_path, recipe_sets) for r, place in expanded)
    protocols = coerce(tuple[str, ...], raw.get("protocols", []), f"{path}: protocols")
    return Grid(
        name=coerce(str, raw.get("name", path.stem), f"{path}: name"),
        title=coerce(str, raw.get("title", path.stem), f"{path}: title"),
        note=coerce(str, raw.get("note", ""), f"{path}: note").strip(),
        config=name,
        scale=scale_name,
        scale_note=coerce(str, scale_raw.get("note", ""), f"{scale_path}: note").strip(),
        reference=_reference(raw, names, path),
        primary=_primary(raw, names, protocols, path),
        seeds=_seeds(raw, seeds, path),
        protocols=protocols,
        threads=coerce(int, scale_raw.get("threads", 1), f"{scale_path}: threads"),
        rows=rows,
        chosen=only or names,
        evaluation=_evaluation(scale_raw, scale_path, overrides),
    )


def _seeds(raw: dict[str, Any], wanted: int | None, path: Path) -> tuple[int, ...]:
    written = raw.get("seeds", 3)
    if wanted is not None:
        if wanted < 1:
            raise UserError("--seeds: must be at least 1.")
        written = wanted
    if isinstance(written, int) and not isinstance(written, bool):
        written = list(range(written))
    seeds = coerce(tuple[int, ...], written, f"{path}: seeds")
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise UserError(f"{path}: seeds: must be a number of seeds or a list of different numbers from 0.")
    return seeds


def _expand(raw: dict[str, Any], path: Path) -> list[tuple[dict[str, Any], str]]:
    """`rows` x `axes` -> (row, place) pairs with names."""
    rows = raw.get("rows", [{"name": "base"}])
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{path}: rows: must be a list of rows.")
    expanded: list[tuple[dict[str, Any], str]] = []
    points = _points(raw.get("axes"), path)
    for index, row in enumerate(rows):
        place = f"{path}: rows.{index}"
        if not isinstance(row, dict) or not isinstance(row.get("name"), str):
            raise UserError(f"{place}: must be a mapping with a `name`.")
        for key in row:
            if key not in ROW_KEYS:
                raise unknown(place, "key", str(key), ROW_KEYS)
        for point in points:
            varied = copy.deepcopy(row)
            for key, value in point.items():
                _put(varied, key, value, f"{path}: axes")
            if point:
                tag = ",".join(f"{k.split('.')[-1]}={v}" for k, v in point.items())
                varied["name"] = f"{row['name']}[{tag}]"
                varied["label"] = f"{row.get('label', row['name'])} ({tag})"
            expanded.append((varied, place))
    names = [r["name"] for r, _ in expanded]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{path}: rows: the name '{name}' is used twice.")
    return expanded


def _points(axes: Any, path: Path) -> list[dict[str, Any]]:
    """The points that `axes: {product: .., zip: .., exclude: ..}` spans."""
    if axes is None:
        return [{}]
    place = f"{path}: axes"
    if not isinstance(axes, dict):
        raise UserError(f"{place}: must be a mapping with product, zip or exclude.")
    for key in axes:
        if key not in ("product", "zip", "exclude"):
            raise unknown(place, "key", str(key), ("product", "zip", "exclude"))
    product, zipped, exclude = axes.get("product") or {}, axes.get("zip") or {}, axes.get("exclude") or []
    for name, group in (("product", product), ("zip", zipped)):
        if not isinstance(group, dict) or not all(isinstance(v, list) and v for v in group.values()):
            raise UserError(f"{place}.{name}: must map dotted keys to lists of values.")
    if not isinstance(exclude, list) or not all(isinstance(e, dict) for e in exclude):
        raise UserError(f"{place}.exclude: must be a list of mappings from dotted keys to values.")
    if len({len(v) for v in zipped.values()}) > 1:
        raise UserError(f"{place}.zip: all lists must have the same length.")
    for excluded in exclude:
        for key in excluded:
            if key not in product and key not in zipped:
                raise unknown(f"{place}.exclude", "axis", str(key), [*product, *zipped])
    zips = [dict(zip(zipped, values, strict=True)) for values in zip(*zipped.values(), strict=True)] if zipped else [{}]
    points = []
    for values in itertools.product(*product.values()):
        for extra in zips:
            point = {**dict(zip(product, values, strict=True)), **extra}
            if not any(all(point[k] == v for k, v in e.items()) for e in exclude):
                points.append(point)
    if not points:
        raise UserError(f"{place}: exclude leaves no point.")
    return points


def _put(target: dict[str, Any], dotted: str, value: Any, place: str) -> None:
    *parents, last = dotted.split(".")
    if (parents or [last])[0] not in RECIPE_KEYS:
        raise unknown(place, "key", dotted, RECIPE_KEYS)
    for key in parents:
        inner = target.setdefault(key, {})
        if isinstance(inner, str):  # `tokenizer: dvae`, written short
            inner = target[key] = {"type": inner}
        if not isinstance(inner, dict):
            raise UserError(f"{place}: '{dotted}' goes into '{key}', which is not a mapping.")
        target = inner
    target[last] = value


def _parse_set(text: str) -> tuple[str, Any]:
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise UserError(f"--set {text}: must be written key.path=value.")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"--set {text}: the value is not readable as YAML.") from error
    if not key.startswith("protocols.") and key.split(".")[0] not in RECIPE_KEYS:
        raise unknown("--set", "key", key, (*RECIPE_KEYS, "protocols"))
    return key, parsed


def _row(
    row: dict[str, Any], place: str, grid: dict[str, Any], path: Path, scale: dict[str, Any], scale_path: Path,
    sets: list[tuple[str, Any]],
) -> Row:  # fmt: skip
    """One row: base, then scale, then the row, then --set; then every part resolved."""
    base_name = row.get("base", grid.get("base"))
    layers = Layers()
    if base_name is not None:
        base_path = find(coerce(str, base_name, f"{place}.base"), "recipes", path)
        base = read_yaml(base_path)
        for key in base:
            if key not in RECIPE_KEYS:
                raise unknown(f"{base_path}", "key", key, RECIPE_KEYS)
        layers.add(base, f"{base_path}: ")
    layers.add({k: v for k, v in scale.items() if k in RECIPE_KEYS}, f"{scale_path}: ")
    own = {k: v for k, v in row.items() if k in RECIPE_KEYS}
    types = Layers()
    types.add(layers.value, "")
    types.add(own, "")
    _add_part_sizes(layers, own, types.value, scale, scale_path)
    layers.add(own, f"{place}.")
    for key, value in sets:
        nested: dict[str, Any] = {}
        _put(nested, key, value, "--set")
        layers.add(nested, "--set ")
    try:
        recipe = _recipe(layers.value)
    except UserError as error:
        raise layers.located(error) from error
    paper = row.get("paper")
    if paper is not None and not isinstance(paper, dict):
        raise UserError(f"{place}.paper: must be a mapping of columns of the published table to values.")
    label = coerce(str, row.get("label", row["name"]), f"{place}.label")
    return Row(row["name"], label, paper or None, recipe)


def _add_part_sizes(
    layers: Layers, own: dict[str, Any], final: dict[str, Any], scale: dict[str, Any], scale_path: Path
) -> None:
    """What the scale says of the parts this row ends up with: `parts: {masker: {blockwise: {min_block: 4}}}`."""
    for kind, by_type in (scale.get("parts") or {}).items():
        if kind not in PART_KINDS:
            raise unknown(f"{scale_path}: parts", "kind of part", kind, PART_KINDS)
        chosen = final.get(kind, {}).get("type") if isinstance(final.get(kind), dict) else None
        if isinstance(chosen, str) and chosen in (by_type or {}):
            if layers.value.get(kind, {}).get("type") != chosen:
                layers.add({kind: {"type": chosen}}, "")
            layers.add({kind: by_type[chosen]}, f"{scale_path}: parts.")


def _recipe(value: dict[str, Any]) -> Recipe:
    pretrain = coerce(bool, value.get("pretrain", True), "@pretrain")
    parts = {}
    for kind in PART_KINDS:
        if kind not in value:
            raise UserError(f"@{kind}: missing. A recipe names a {kind}, e.g. `{kind}: {{type: NAME}}`.")
        parts[kind] = registry.resolve(kind, value[kind], f"@{kind}")
    schedule = dataclass_from(ScheduleConfig, value.get("schedule", {}), "@schedule")
    training = dataclass_from(TokenizerTraining, value.get("tokenizer_training", {}), "@tokenizer_training")
    for name, config in (("schedule", schedule), ("tokenizer_training", training)):
        for key in ("steps", "batch"):
            if getattr(config, key) < 1:
                raise UserError(f"@{name}.{key}: must be at least 1, not {getattr(config, key)}.")
        if not 0 <= config.warmup <= config.steps:
            raise UserError(f"@{name}.warmup: must be between 0 and the {config.steps} steps, not {config.warmup}.")
    encoder = dataclass_from(EncoderConfig, value.get("encoder", {}), "@encoder")
    data = dataclass_from(DataConfig, value.get("data", {}), "@data")
    _check_encoder(encoder, data)
    return Recipe(pretrain, **parts, encoder=encoder, data=data, schedule=schedule, tokenizer_training=training)


def _check_encoder(encoder: EncoderConfig, data: DataConfig) -> None:
    for key in ("patch", "dim", "depth", "heads"):
        if getattr(encoder, key) < 1:
            raise UserError(f"@encoder.{key}: must be at least 1, not {getattr(encoder, key)}.")
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


def _evaluation(scale: dict[str, Any], path: Path, overrides: dict[str, Any]) -> Evaluation:
    raw = scale.get("evaluation", {})
    keys = ("data", "segmentation_data", "labelled", "val", "test")
    if not isinstance(raw, dict):
        raise UserError(f"{path}: evaluation: must be a mapping.")
    for key in raw:
        if key not in keys:
            raise unknown(f"{path}: evaluation", "key", key, keys)
    nested: dict[str, dict[str, Any]] = {}
    for dotted, value in overrides.items():
        protocol, _, key = dotted.partition(".")
        nested.setdefault(protocol, {})[key] = value
    counts = {k: coerce(int | None, raw.get(k), f"{path}: evaluation.{k}") for k in ("labelled", "val", "test")}
    data = dataclass_from(DataConfig, raw.get("data", {}), f"{path}: evaluation.data")
    return Evaluation(
        data, coerce(str, raw.get("segmentation_data", data.name), f"{path}: evaluation"), **counts, overrides=nested
    )


def _reference(raw: dict[str, Any], names: tuple[str, ...], path: Path) -> str:
    name = coerce(str, raw.get("reference", names[0]), f"{path}: reference")
    if name not in names:
        raise unknown(f"{path}: reference", "row", name, names)
    return name


def _primary(
    raw: dict[str, Any], names: tuple[str, ...], protocols: tuple[str, ...], path: Path
) -> dict[str, str] | None:
    """The one comparison with the reference that is named beforehand."""
    primary = raw.get("primary")
    if primary is None:
        return None
    if not isinstance(primary, dict) or set(primary) != {"row", "protocol"}:
        raise UserError(f"{path}: primary: must be written {{row: NAME, protocol: NAME}}.")
    if primary["row"] not in names:
        raise unknown(f"{path}: primary.row", "row", str(primary["row"]), names)
    if primary["protocol"] not in protocols:
        raise unknown(f"{path}: primary.protocol", "protocol", str(primary["protocol"]), protocols)
    return {"row": primary["row"], "protocol": primary["protocol"]}


def as_spec(config: Any) -> dict[str, Any]:
    """A config dataclass as plain JSON values (tuples become lists)."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(config).items()}
