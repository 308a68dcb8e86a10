"""Arguments of tokenizers that are files: read once while planning, and named by their content from there on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mimbench import registry
from mimbench.config.schema import ONLY, Grid, Row
from mimbench.errors import UserError
from mimbench.parts import FILE
from mimbench.store.files import sha256_file


def with_files_by_content(grid: Grid) -> tuple[Grid, dict[str, Path]]:
    """The grid with `sha256:...` in place of paths, and the files by their sha256."""
    files: dict[str, Path] = {}
    rows = tuple(
        _named(row, files, f"{grid.config}: row '{row.name}'") if row.recipe.pretrain else row for row in grid.rows
    )
    return replace(grid, rows=rows), files


def _named(row: Row, files: dict[str, Path], place: str) -> Row:
    terms = dict(row.recipe.terms)
    for name, term in terms.items():
        tokenizer, where = registry.build("tokenizer", term.tokenizer), "" if name == ONLY else f"terms.{name}."
        own = {key: Path(term.tokenizer[key]) for key in getattr(tokenizer, "files", ())}
        for key, path in own.items():
            if not path.is_file():
                raise UserError(f"{place}: {where}tokenizer.{key}: no file {path}.")
        if not own:
            continue
        try:
            tokenizer.load()
        except ValueError as error:
            raise UserError(f"{place}: {where}tokenizer: {error}") from error
        by_content = {key: sha256_file(path) for key, path in own.items()}
        files |= {by_content[key]: path for key, path in own.items()}
        named = {key: f"{FILE}{sha256}" for key, sha256 in by_content.items()}
        terms[name] = replace(term, tokenizer={**term.tokenizer, **named})
    return replace(row, recipe=replace(row.recipe, terms=terms))
