"""The rows whose encoders come from elsewhere: what they are is found out before anything else is planned."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mimbench.config.schema import EncoderConfig, Grid, Recipe, Row
from mimbench.errors import UserError


def with_their_encoders(grid: Grid) -> tuple[Grid, dict[str, Origin], list[str]]:
    """The grid, each checkpoint's encoder completed from its tensors; by row where it is from; and what was guessed.

    A wrong file is refused here.
    """
    grid = _with_checkpoints_as_rows(grid)
    rows, origins, notes = [], {}, []
    for row in grid.by_name.values():
        recipe = row.recipe
        if recipe.weights is not None:
            place = _naming(grid, row.name) if row in grid.teachers else f"row '{row.name}': pretrain.weights"
            found = examine(recipe.weights, recipe.stated, recipe.data.size, f"{grid.config}: {place}")
            row, origins[row.name] = replace(row, recipe=replace(recipe, encoder=found.encoder)), found.origin
            notes += [f"Row '{row.name}': {guess}" for guess in found.guesses]
        rows.append(row)
    for _ in [row for row in rows if row.recipe.finetuned]:  # what was fine-tuned may be of a row that was so itself
        encoders = {row.name: row.recipe.encoder for row in rows}
        rows = [_with_encoder_of_the_other(row, encoders) for row in rows]
    count = len(grid.rows)
    return replace(grid, rows=tuple(rows[:count]), teachers=tuple(rows[count:])), origins, notes


def _with_checkpoints_as_rows(grid: Grid) -> Grid:
    """Each checkpoint that a `teacher` or `start` names becomes one more row, which the grid does not list."""
    teachers: dict[str, Row] = {}

    def named(teacher: Any, recipe: Recipe, **stated: Any) -> Any:
        if teacher is None or teacher.weights is None or not recipe.pretrain:
            return teacher
        said = "".join(f", {key} {value}" for key, value in stated.items())
        name = f"{teacher.weights} ({recipe.data.size} px{said})"
        own = replace(recipe, pretrain=False, weights=teacher.weights, stated=stated, start=None, teacher=None)
        teachers.setdefault(name, Row(name, name, None, own, name))
        return replace(teacher, row=name, weights=None)

    rows = []
    for row in grid.rows:
        recipe, training = row.recipe, row.recipe.tokenizer_training
        training = replace(training, teacher=named(training.teacher, recipe))
        own = {key: getattr(recipe.encoder, key) for key in ("heads", "normalization")}  # which a file need not say
        start = named(recipe.start, recipe, **own)
        teacher = named(recipe.teacher, recipe)
        rows.append(replace(row, recipe=replace(recipe, start=start, teacher=teacher, tokenizer_training=training)))
    return replace(grid, rows=tuple(rows), teachers=tuple(teachers.values()))


def _naming(grid: Grid, teacher: str) -> str:
    """The first row and key that names this checkpoint."""
    for row in grid.rows:
        recipe = row.recipe
        for key, named in (
            ("teacher", recipe.teacher),
            ("start", recipe.start),
            ("tokenizer_training.teacher", recipe.tokenizer_training.teacher),
        ):
            if named is not None and named.row == teacher:
                return f"row '{row.name}': {key}.weights"
    raise AssertionError(f"no row names {teacher}")


def _with_encoder_of_the_other(row: Row, encoders: dict[str, EncoderConfig]) -> Row:
    """A row that another's fine-tuning left has its encoder. A name that is no row is refused later."""
    other = encoders.get(row.recipe.finetuned or "")
    if other is None:
        return row
    return replace(row, recipe=replace(row.recipe, encoder=replace(other, **row.recipe.stated)))


@dataclass(frozen=True)
class Origin:
    """Where a file is from."""

    path: Path
    name: str  # as the grid has it
    license: str | None = None


@dataclass(frozen=True)
class Examined:
    """A checkpoint that fits."""

    encoder: EncoderConfig
    origin: Origin
    loaded: dict[str, Any]  # what loading it did
    guesses: list[str]


def examine(weights: str, stated: dict[str, Any], size: int, place: str) -> Examined:
    """The encoder, by what the row states and the rest from tensors and config."""
    from mimbench.models.encoder import make_encoder
    from mimbench.models.foreign import load_into, read_checkpoint
    from mimbench.models.guesses import guesses
    from mimbench.models.released import locate

    try:
        path, described = locate(weights)
        checkpoint = read_checkpoint(path)
        encoder = checkpoint.encoder_config(described, stated)
        encoder.check(f"{path}: encoder")
        if size % encoder.patch:
            raise UserError(f"its patches of {encoder.patch} pixels do not divide the image size {size} (data.size).")
        loaded = load_into(make_encoder(encoder, size, 0, masked=False), checkpoint)
        origin = Origin(path, weights, described.license)
        return Examined(encoder, origin, loaded, guesses(checkpoint, encoder, described, stated))
    except UserError as error:
        raise UserError(f"{place}: {error}") from error
