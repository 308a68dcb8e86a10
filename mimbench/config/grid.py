"""A grid file -> rows: `base:` (one level), then the scale, then the row, then --set; rows times axes."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mimbench import registry
from mimbench.config.coerce import coerce
from mimbench.config.merge import Layers, find, parse, read_yaml
from mimbench.config.schema import PART_KINDS, RECIPE_KEYS, Evaluation, Grid, Row, data_from, recipe_from
from mimbench.errors import UserError, unknown

GRID_KEYS = ("name", "title", "note", "base", "scale", "seeds", "protocols", "reference", "primary", "rows", "axes",
             "tensorboard")  # fmt: skip
ROW_KEYS = ("name", "label", "paper", "base", "left_out_at", *RECIPE_KEYS)
SCALE_KEYS = ("scale", "note", "threads", "parts", "evaluation", *RECIPE_KEYS)
MOST_SEEDS = 1000  # of one grid at a time; each is a training of every row


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
    scale_raw = _read_scale(scale_path)
    protocol_scale = coerce(str, scale_raw.get("scale", scale_path.stem), f"{scale_path}: scale")
    settings = [_parse_set(s) for s in sets]
    overrides = {k.partition(".")[2]: v for k, v in settings if k.startswith("protocols.")}
    recipe_sets = [(k, v) for k, v in settings if not k.startswith("protocols.")]
    expanded = _expand(raw, path)
    names = tuple(row.value["name"] for row in expanded)
    references = _references(raw, expanded, path)
    for row_name in only:
        if row_name not in names:
            raise unknown(f"{path}: --only", "row", row_name, names)
    left_out = _left_out(expanded, path, scale_path.stem)
    at_this_scale = tuple(row.value["name"] for row in expanded if row.place not in left_out)
    chosen = tuple(dict.fromkeys(only)) or at_this_scale
    if not chosen:
        raise UserError(f"{path}: scale {scale_path.stem} leaves every row out; name those to run with --only.")
    rows = tuple(
        _row(row, reference.value["name"], raw, path, scale_raw, scale_path, recipe_sets)
        for row, reference in zip(expanded, references, strict=True)
    )
    protocols = coerce(tuple[str, ...], raw.get("protocols", []), f"{path}: protocols")
    if not protocols or len(set(protocols)) != len(protocols):
        raise UserError(f"{path}: protocols: must name at least one protocol, each once.")
    return Grid(
        name=_file_name(raw.get("name", path.stem), f"{path}: name"),
        title=coerce(str, raw.get("title", path.stem), f"{path}: title"),
        note=coerce(str, raw.get("note", ""), f"{path}: note").strip(),
        config=name,
        scale=scale_path.stem,
        protocol_scale=protocol_scale,
        scale_note=coerce(str, scale_raw.get("note", ""), f"{scale_path}: note").strip(),
        reference=references[0].value["name"],
        reference_label=_reference_label(references),
        primary=_primary(raw, rows, protocols, path),
        seeds=_seeds(raw, seeds, path),
        only_these_seeds=seeds is None and isinstance(raw.get("seeds"), list),
        protocols=protocols,
        threads=_at_least_one(scale_raw.get("threads", 1), f"{scale_path}: threads"),
        rows=rows,
        sets=sets,
        left_out=tuple(name for name in names if name not in at_this_scale and name not in chosen),
        chosen=chosen,
        evaluation=_evaluation(scale_raw, scale_path, overrides),
        tensorboard=coerce(bool, raw.get("tensorboard", False), f"{path}: tensorboard"),
    )


def _read_scale(path: Path) -> dict[str, Any]:
    raw = read_yaml(path)
    for key in raw:
        if key not in SCALE_KEYS:
            raise unknown(f"{path}", "key", key, SCALE_KEYS)
    return raw


def _file_name(value: Any, place: str) -> str:
    """The grid's name is part of the names of files."""
    name = coerce(str, value, place)
    if not re.fullmatch(r"[\w][\w.-]*", name):
        raise UserError(f"{place}: must consist of letters, digits, '-', '_' and '.', not {name!r}.")
    return name


def _at_least_one(value: Any, place: str) -> int:
    number = coerce(int, value, place)
    if number < 1:
        raise UserError(f"{place}: must be at least 1, not {number}.")
    return number


def _seeds(raw: dict[str, Any], wanted: int | None, path: Path) -> tuple[int, ...]:
    place, written = (f"{path}: seeds", raw.get("seeds", 3)) if wanted is None else ("--seeds", wanted)
    if isinstance(written, int) and not isinstance(written, bool):
        if not 1 <= written <= MOST_SEEDS:
            raise UserError(f"{place}: must be at least 1 and at most {MOST_SEEDS} seeds, not {written}.")
        return tuple(range(written))
    seeds = coerce(tuple[int, ...], written, place)
    if not seeds or len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise UserError(f"{place}: must be a number of seeds or a list of different numbers from 0.")
    if len(seeds) > MOST_SEEDS:
        raise UserError(f"{place}: must be at most {MOST_SEEDS} at a time, not {len(seeds)}.")
    return seeds


@dataclass(frozen=True)
class _Expanded:
    """A row of the file at one point of its axes."""

    value: dict[str, Any]
    place: str
    origin: dict[str, Any]  # the row as written
    point: int


def _expand(raw: dict[str, Any], path: Path) -> list[_Expanded]:
    """`rows` x `axes` -> rows with names of their own."""
    rows = raw.get("rows", [{"name": "base"}])
    if not isinstance(rows, list) or not rows:
        raise UserError(f"{path}: rows: must be a list of rows.")
    expanded: list[_Expanded] = []
    points = _points(raw.get("axes"), path)
    short = _short_names(list(points[0]))
    for index, row in enumerate(rows):
        place = f"{path}: rows.{index}"
        if not isinstance(row, dict) or not isinstance(row.get("name"), str):
            raise UserError(f"{place}: must be a mapping with a `name`.")
        for key in row:
            if key not in ROW_KEYS:
                raise unknown(place, "key", str(key), ROW_KEYS)
        for number, point in enumerate(points):
            varied = copy.deepcopy(row)
            for key, value in point.items():
                _put(varied, key, value, f"{path}: axes")
            if point:
                tag = ",".join(f"{short[k]}={v}" for k, v in point.items())
                varied["name"] = f"{row['name']}[{tag}]"
                varied["label"] = f"{row.get('label', row['name'])} ({tag})"
            expanded.append(_Expanded(varied, place, row, number))
    names = [row.value["name"] for row in expanded]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{path}: rows: the name '{name}' is used twice.")
    return expanded


def _left_out(rows: list[_Expanded], path: Path, scale: str) -> set[str]:
    """Places of the rows that take too long at a scale, or do not fit, and so are there only if they are asked for."""
    written = {row.place: row.origin for row in rows}  # each once, whatever the axes make of it
    return {place for place, row in written.items() if _is_left_out(row, f"{place}.left_out_at", path, scale)}


def _is_left_out(row: dict[str, Any], place: str, path: Path, scale: str) -> bool:
    scales = coerce(tuple[str, ...], row.get("left_out_at", []), place)
    # a list: every name is looked up, the misspelt one behind the right one too
    return any([name == scale or _names_scale(name, scale, path, place) for name in scales])


def _names_scale(name: str, scale: str, path: Path, place: str) -> bool:
    """Whether a name, which must be a scale's, is that of this one."""
    named = find(name, "scales", path, place)
    try:
        _read_scale(named)
    except UserError as error:
        raise UserError(f"{place}: '{name}' is no scale: {error}") from error
    return named.stem == scale


def _short_names(axes: list[str]) -> dict[str, str]:
    """Each dotted path by the shortest end of it that no other one has."""

    def ends(axis: str) -> list[str]:
        parts = axis.split(".")
        return [".".join(parts[start:]) for start in reversed(range(len(parts)))]

    return {
        axis: next((end for end in ends(axis) if not any(end in ends(other) for other in axes if other != axis)), axis)
        for axis in axes
    }


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
        if not isinstance(group, dict) or not all(
            isinstance(k, str) and isinstance(v, list) and v for k, v in group.items()
        ):
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
        parsed = parse(value)
    except yaml.YAMLError as error:
        raise UserError(f"--set {text}: the value is not readable as YAML.") from error
    if not key.startswith("protocols.") and key.split(".")[0] not in RECIPE_KEYS:
        raise unknown("--set", "key", key, (*RECIPE_KEYS, "protocols"))
    return key, parsed


def _row(
    expanded: _Expanded, reference: str, grid: dict[str, Any], path: Path, scale: dict[str, Any], scale_path: Path,
    sets: list[tuple[str, Any]],
) -> Row:  # fmt: skip
    """One row: base, then scale, then the row, then --set; then every part resolved."""
    row, place = expanded.value, expanded.place
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
    _add_part_sizes(layers, PART_KINDS, types.value, scale, scale_path)
    layers.add(own, f"{place}.")
    nested: list[dict[str, Any]] = [{} for _ in sets]
    for layer, (key, value) in zip(nested, sets, strict=True):
        _put(layer, key, value, "--set")
        types.add(layer, "")
    retyped = [kind for kind in PART_KINDS if _type_of(types.value, kind) != _type_of(layers.value, kind)]
    _add_part_sizes(layers, retyped, types.value, scale, scale_path)
    for layer in nested:
        layers.add(layer, "--set ")
    try:
        recipe = recipe_from(layers.value)
    except UserError as error:
        raise layers.located(error) from error
    paper = row.get("paper")
    if paper is not None and not isinstance(paper, dict):
        raise UserError(f"{place}.paper: must be a mapping of columns of the published table to values.")
    label = coerce(str, row.get("label", row["name"]), f"{place}.label")
    return Row(row["name"], label, paper or None, recipe, reference)


def _add_part_sizes(
    layers: Layers, kinds: Iterable[str], final: dict[str, Any], scale: dict[str, Any], scale_path: Path
) -> None:
    """What the scale says of the parts this row ends up with: `parts: {masker: {blockwise: {min_block: 4}}}`."""
    sizes = scale.get("parts") or {}
    if not isinstance(sizes, dict) or not all(isinstance(v, dict) for v in sizes.values()):
        raise UserError(f"{scale_path}: parts: must map kinds to types to arguments.")
    for kind, by_type in sizes.items():
        if kind not in PART_KINDS:
            raise unknown(f"{scale_path}: parts", "kind of part", kind, PART_KINDS)
        for name in by_type:
            registry.part_class(kind, str(name), f"{scale_path}: parts.{kind}")
        chosen = _type_of(final, kind)
        if kind in kinds and isinstance(chosen, str) and chosen in by_type:
            if _type_of(layers.value, kind) != chosen:
                layers.add({kind: {"type": chosen}}, "")
            layers.add({kind: by_type[chosen]}, f"{scale_path}: parts.")


def _type_of(recipe: dict[str, Any], kind: str) -> Any:
    part = recipe.get(kind)
    return part.get("type") if isinstance(part, dict) else None


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
    data = data_from(raw.get("data", {}), f"{path}: evaluation.data")
    if data.images is not None:
        raise UserError(f"{path}: evaluation.data.images: say how many by `labelled`, `val` and `test`, beside `data`.")
    for name, count in counts.items():
        if count is not None and count < 1:
            raise UserError(f"{path}: evaluation.{name}: must be at least 1, not {count}.")
    return Evaluation(
        data, coerce(str, raw.get("segmentation_data", data.name), f"{path}: evaluation"), **counts, overrides=nested
    )


def _references(raw: dict[str, Any], rows: list[_Expanded], path: Path) -> list[_Expanded]:
    """For each row the one it is compared with: the reference at the same point of the axes, unless one point is named."""
    wanted = coerce(str, raw.get("reference", rows[0].origin["name"]), f"{path}: reference")
    at_point = {row.point: row for row in rows if row.origin["name"] == wanted}
    if at_point:
        return [at_point[row.point] for row in rows]
    named = {row.value["name"]: row for row in rows}
    if wanted not in named:
        raise unknown(f"{path}: reference", "row", wanted, {*named, *(row.origin["name"] for row in rows)})
    return [named[wanted]] * len(rows)


def _reference_label(references: list[_Expanded]) -> str:
    first = references[0]
    row = first.origin if any(other is not first for other in references) else first.value
    return str(row.get("label", row["name"]))


def _primary(
    raw: dict[str, Any], rows: tuple[Row, ...], protocols: tuple[str, ...], path: Path
) -> dict[str, str] | None:
    """The one comparison with the reference that is named beforehand."""
    primary = raw.get("primary")
    if primary is None:
        return None
    if not isinstance(primary, dict) or set(primary) != {"row", "protocol"}:
        raise UserError(f"{path}: primary: must be written {{row: NAME, protocol: NAME}}.")
    references = {row.name: row.reference for row in rows}
    if not isinstance(primary["row"], str) or primary["row"] not in references:
        raise unknown(f"{path}: primary.row", "row", str(primary["row"]), references)
    if primary["row"] == references[primary["row"]]:
        raise UserError(f"{path}: primary.row: is the reference itself; name the row to compare it with.")
    if primary["protocol"] not in protocols:
        raise unknown(f"{path}: primary.protocol", "protocol", str(primary["protocol"]), protocols)
    return {"row": primary["row"], "protocol": primary["protocol"]}
