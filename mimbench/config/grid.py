"""A grid file -> rows: `base:` (one level), then the scale (it may have a `base:` too), then the row, then --set; rows times axes."""

from __future__ import annotations

import copy
import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from mimbench.config.axes import Axes, by_short_name, check_rows, tag
from mimbench.config.by_row import LENGTH, checked_steps, row_with_budget, states, with_steps
from mimbench.config.coerce import Checked, coerce, dataclass_from
from mimbench.config.merge import Layers, find, put, read_yaml
from mimbench.config.ranges import FILLED, ONE_LINE, Count, Range, Whole, between
from mimbench.config.rates import searched_path, with_rates
from mimbench.config.recipe import recipe_from
from mimbench.config.scales import Layer, Scale, read_scale, split_layer, with_known_keys
from mimbench.config.schema import RECIPE_KEYS, Grid, Nested, Recipe, Row
from mimbench.config.search import Search
from mimbench.config.sets import parse_sets
from mimbench.errors import UserError, check_known
from mimbench.inert import one_line

MAX_SEEDS = 1000  # of one grid; each trains every row
MAX_CELLS = 10_000  # rows times seeds
LONGEST = 100  # bytes of a name that becomes part of a file's
FILE_NAME = Range(
    f"at most {LONGEST} letters, digits, '-', '_' and '.'",
    lambda name: bool(re.fullmatch(r"\w[\w.-]*", name)) and len(name.encode()) <= LONGEST,
)
SEEDS = Range(
    f"a number of seeds, or a list of 1 to {MAX_SEEDS} different ones",
    lambda seeds: 0 < len(set(seeds)) == len(seeds) <= MAX_SEEDS,
)
EACH_ONCE = Range("at least one protocol, each once", lambda names: names and len(set(names)) == len(names))

T = TypeVar("T")
Sources = dict[str, str]  # dotted key -> the file and place that set it


@dataclass(frozen=True)
class Primary:
    """The one pre-specified comparison with the reference."""

    row: str
    protocol: str


@dataclass(frozen=True)
class GridFile(Checked):
    """A grid as written."""

    name: Annotated[str, FILE_NAME]
    title: str
    protocols: Annotated[tuple[str, ...], EACH_ONCE]
    rows: Annotated[list[Layer], FILLED] = field(default_factory=lambda: [{"name": "base"}])
    note: str = ""
    base: str | None = None
    scale: str = "tiny"
    seeds: Any = 3  # how many, or a list
    nested: Nested = field(default_factory=Nested)
    reference: str | None = None
    primary: Primary | None = None
    axes: Axes | None = None
    tensorboard: bool = False
    budget: Literal["steps", "flops"] = "steps"  # what all rows have in common
    budget_row: str | None = None  # whose FLOPs are the budget; None: the reference's
    steps: dict[str, dict[str, Count]] = field(default_factory=dict)  # by scale and row; `mimbench budget` writes them
    search: Search | None = None  # of learning rates, by `mimbench search`
    searched: bool = False  # rows train at the learning rates that were found

    def check(self, place: str) -> None:
        if self.budget == "steps" and (self.steps or self.budget_row):
            key = "steps" if self.steps else "budget_row"
            raise UserError(f"{place} {key}: does nothing without budget: flops.")
        if self.searched and self.search is None:
            raise UserError(f"{place} searched: needs `search: {{lr: [...], protocols: [...]}}`: what is tried.")


@dataclass(frozen=True)
class RowFile:
    """A row as written, beside its differences from the base."""

    name: Annotated[str, ONE_LINE]
    label: Annotated[str, ONE_LINE] | None = None
    paper: dict[str, Any] | None = None
    base: str | None = None
    reference: str | None = None  # the row it is compared with; None: the grid's
    improves: str | None = None  # the one protocol, named before any run, in which it should exceed its reference


@dataclass(frozen=True)
class _Point:
    """A row of the file at one point of the axes."""

    name: str
    label: str
    written: RowFile
    layer: Layer
    place: str
    index: int  # of the point
    point: dict[str, Any]


def load_grid(
    name: str,
    *,
    scale: str | None = None,
    data: str | None = None,
    seeds: int | None = None,
    only: tuple[str, ...] = (),
    sets: tuple[str, ...] = (),
    within_budget: bool = True,
    at_searched: bool = True,
) -> Grid:
    """Read a grid file and everything it refers to; all errors come before any compute.

    `within_budget`: False for rows as they are before a budget of FLOPs says how long each trains.
    `at_searched`: False for rows at their recipes' own learning rates.
    """
    path = find(name)
    file = dataclass_from(GridFile, {"name": path.stem, "title": path.stem, **read_yaml(path)}, f"{path}:")
    scale_path = find(scale or file.scale, "scales", path, from_shell=scale is not None)
    sizes = read_scale(scale_path)
    if data is not None:
        sizes = sizes.on(data)
    if len(f"{file.name}.{sizes.name}".encode()) > 2 * LONGEST:
        raise UserError(
            f"{path}: name: with scale '{sizes.name}' it is longer than {2 * LONGEST} bytes, too long for a folder."
        )
    settings, layers = parse_sets(sets)
    points = _expand(file, path)
    place = f"{path}: seeds" if seeds is None else "--seeds"
    chosen_seeds = _seeds(file.seeds, seeds, str(path))
    if (cells := len(only or points) * len(chosen_seeds)) > MAX_CELLS:
        raise UserError(f"{place}: {len(only or points):,} rows at {len(chosen_seeds):,} seeds are {cells:,} rows to train; "
                        f"a grid has at most {MAX_CELLS:,}.")  # fmt: skip
    references = _references(file, points, path)
    names = tuple(point.name for point in points)
    for row in only:
        check_known(f"{path}: --only", "row", row, names)
    budget_row = row_with_budget(file.budget, file.budget_row, references[0].name, names, path)
    rows = tuple(
        _row(point, *_recipe(point, file, path, sizes, layers), other.name, file)
        for point, other in zip(points, references, strict=True)
    )
    if file.budget == "flops" and within_budget:
        command = f"mimbench budget {name} --scale {scale or file.scale}"
        steps = checked_steps(file.steps, sizes.in_recipes, rows, str(path), command)
        rows = with_steps(rows, steps, layers)
    searched = ""
    if file.searched and file.search and at_searched:
        command = f"mimbench search {name} --scale {scale or file.scale}"
        rows, searched = with_rates(
            rows, file.search, searched_path(path, file.name, sizes.in_recipes), layers, command
        )
    if file.search is not None:
        file.search.check_within(file.protocols, chosen_seeds, str(path), place)
    file.nested.check_seeds(chosen_seeds, place)
    return Grid(
        name=file.name, title=one_line(file.title), note=file.note.strip(), config=name, protocols=file.protocols,
        tensorboard=file.tensorboard, nested=file.nested, threads=sizes.file.threads, evaluation=sizes.file.evaluation,
        scale=sizes.name, data=data, scale_file=str(sizes.path), scale_note=sizes.note_for({row.recipe.data.name for row in rows}),
        scale_settings=sizes.file.protocols, settings=settings, sets=sets,
        rows=rows, chosen=tuple(dict.fromkeys(only)) or names,
        reference=references[0].name, reference_label=_reference_label(references), primary=_primary(file, rows, path),
        seeds=chosen_seeds, only_these_seeds=seeds is None and isinstance(file.seeds, list),
        sizes=sizes.in_recipes, budget_row=budget_row, search=file.search, searched=searched,
    )  # fmt: skip


def _row(point: _Point, recipe: Recipe, sources: Sources, reference: str, file: GridFile) -> Row:
    """A row that states how long it trains, or its learning rate, keeps that."""
    budgeted = file.budget == "flops" and recipe.pretrain and not states(point.layer, *LENGTH)
    written = point.written
    if written.improves is not None:
        check_known(f"{point.place}: improves", "protocol", written.improves, file.protocols)
        if reference == point.name or recipe.untrained:
            raise UserError(f"{point.place}: improves: the row is not pre-trained, or is compared with itself.")
    searched = file.search is not None and recipe.pretrain and not states(point.layer, "lr")
    return Row(
        point.name, point.label, written.paper or None, recipe, reference, budgeted, written.improves, searched, point.point, sources
    )  # fmt: skip


def _seeds(written: Any, asked: int | None, path: str) -> tuple[int, ...]:
    """The first `asked` of the file's seeds. Seeds that it lists are never replaced by others: they may be kept for a purpose."""
    count = None if asked is None else coerce(Annotated[int, between(1, MAX_SEEDS)], asked, "--seeds")
    if not isinstance(written, list | tuple):
        return tuple(range(count or coerce(Annotated[int, between(1, MAX_SEEDS)], written, f"{path}: seeds")))
    listed = coerce(Annotated[tuple[Whole, ...], SEEDS], written, f"{path}: seeds")
    if count is not None and count > len(listed):
        raise UserError(f"--seeds: {count} is more than {path} lists ({', '.join(map(str, listed))}). Add seeds there.")
    return listed[:count]


def _expand(file: GridFile, path: Path) -> list[_Point]:
    """`rows` x `axes`, each with a name of its own."""
    found: dict[str, _Point] = {}
    points = (file.axes or Axes()).points()
    check_rows(len(file.rows) * len(points), f"{path}: rows")
    for number, raw in enumerate(file.rows):
        place = f"{path}: rows.{number}"
        written, layer = split_layer(raw, RowFile, place)
        for index, point in enumerate(points):
            varied = copy.deepcopy(layer)
            for key, value in point.items():
                put(varied, key, value, f"{path}: axes", RECIPE_KEYS)
            name, label = written.name, written.label or written.name
            if point:
                name, label = f"{name}[{tag(point)}]", f"{label} ({tag(point)})"
            if name in found:
                raise UserError(f"{path}: rows: the name '{name}' is used twice.")
            found[name] = _Point(name, label, written, varied, place, index, by_short_name(point))
    return list(found.values())


def _where_present(layer: Layer, *recipes: Layer) -> Layer:
    """A scale's values for terms, views and the teacher, only where one of the recipe's own layers has them."""
    kept = dict(layer)
    for key in ("terms", "views"):
        if isinstance(layer.get(key), dict):
            known = {name for recipe in recipes if isinstance(recipe.get(key), dict) for name in recipe[key]}
            kept[key] = {name: value for name, value in layer[key].items() if name in known}
    if not any(recipe.get("teacher") for recipe in recipes):
        kept.pop("teacher", None)
    return kept


def _recipe(point: _Point, file: GridFile, path: Path, scale: Scale, sets: list[Layer]) -> tuple[Recipe, Sources]:
    """Base, scale, sizes of the scale, the base's own values at that scale, row, --set: each overrides those before it."""
    layers, at_scales, base_path = Layers(), {}, path
    base = point.written.base or file.base
    if base is not None:
        base_path = find(base, "recipes", path)
        recipe = with_known_keys(read_yaml(base_path), (*RECIPE_KEYS, "scales"), f"{base_path}")
        at_scales = coerce(dict[str, Layer], recipe.pop("scales", {}), f"{base_path}: scales")
        layers.add(recipe, f"{base_path}: ")
    layers.add(_where_present(scale.layer, layers.value, point.layer), f"{scale.path}: ")
    layers.size_parts(scale.file.parts, f"{scale.path}: parts.")
    if own := at_scales.get(scale.in_recipes):
        place = f"{base_path}: scales.{scale.in_recipes}"
        layers.add(with_known_keys(own, RECIPE_KEYS, place), f"{place}.")
    layers.add(point.layer, f"{point.place}.")
    for layer in sets:
        if isinstance(layer.get("terms"), dict) and (known := layers.value.get("terms")):
            for name in layer["terms"]:
                check_known(f"--set terms, row '{point.written.name}'", "term", name, known)
        layers.add(layer, "--set ")
    if layers.value.get("views"):
        for key in ("crop", "shift", "flip", "jitter"):
            source = layers.sources.get(f"data.{key}", "")
            if source in (f"{point.place}.", "--set "):
                raise UserError(f"{source}data.{key}: does nothing where a recipe has views; set it in views.NAME.")
    if isinstance(layers.value.get("pretrain"), dict):  # base and scale speak of encoders to be trained
        written, own = layers.value.get("encoder"), (f"{point.place}.", "--set ")
        if isinstance(written, dict):
            layers.value["encoder"] = {k: v for k, v in written.items() if layers.sources[f"encoder.{k}"] in own}
    try:
        return recipe_from(layers.value), layers.sources
    except UserError as error:
        raise layers.located(error) from error


def _references(file: GridFile, points: list[_Point], path: Path) -> list[_Point]:
    """For each row the one it is compared with: its own or the grid's, at its point of the axes, or the one point named."""
    default = points[0].written.name if file.reference is None else file.reference
    return [_reference(point.written.reference or default, point, points, f"{path}: reference") for point in points]


def _reference(wanted: str, point: _Point, points: list[_Point], place: str) -> _Point:
    by_point = {other.index: other for other in points if other.written.name == wanted}
    if by_point:
        return by_point[point.index]
    named = {other.name: other for other in points}
    check_known(place, "row", wanted, {*named, *(other.written.name for other in points)})
    return named[wanted]


def _reference_label(references: list[_Point]) -> str:
    first = references[0]
    if all(other is first for other in references):
        return first.label
    return first.written.label or first.written.name  # a different row at each point


def _primary(file: GridFile, rows: tuple[Row, ...], path: Path) -> dict[str, str] | None:
    primary, references = file.primary, {row.name: row.reference for row in rows}
    if primary is None:
        return None
    check_known(f"{path}: primary.row", "row", primary.row, references)
    if primary.row == references[primary.row]:
        raise UserError(f"{path}: primary.row: is the reference itself; name the row to compare with it.")
    check_known(f"{path}: primary.protocol", "protocol", primary.protocol, file.protocols)
    return dataclasses.asdict(primary)
