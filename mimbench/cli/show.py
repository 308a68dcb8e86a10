"""`mimbench show`: pictures of what a row does, and its recipe and runs in words."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimbench.errors import EXIT_OK, UserError, check_known
from mimbench.inert import for_terminal
from mimbench.runtime import quick_imports
from mimbench.store.results import Store

if TYPE_CHECKING:
    from mimbench.config.schema import Grid
    from mimbench.show.subject import Subject

PICTURES = {
    "masks": "what a masker hides and how often; without a subject, every registered masker",
    "tokens": "images, their tokens, what the tokenizer's decoder makes of these, and the codebook's use",
    "predictions": "what the encoder sees, what is predicted, and the target",
    "attention": "where the heads of the last block look",
    "features": "principal components of patch features as color",
}
WORDS = {
    "recipe": "a row's resolved recipe, and where each value came from",
    "run": "a run's spec, state, attempts, result, cost and folder",
}
SUBJECT = {
    "masks": "RUN, or GRID ROW (which need not be trained)",
    "tokens": "RUN, or GRID ROW",
    "predictions": "RUN, or GRID ROW",
    "attention": "RUN, GRID ROW, or a checkpoint: a path, timm:NAME or hf:NAME",
    "features": "RUN, GRID ROW, or a checkpoint: a path, timm:NAME or hf:NAME",
    "recipe": "GRID ROW",
    "run": "RUN: a name or a prefix of its hash",
}
MOST = 16  # images of a sheet
MASKER_GRID, MASKER_PATCH = 14, 16  # of a masker without a row: ViT-B/16 at 224 pixels


def add_commands(commands: Any) -> None:
    show = commands.add_parser(
        "show", help="pictures of masks, tokens, predictions, attention, features; recipes; runs"
    )
    whats = show.add_subparsers(required=True, metavar="WHAT")
    for name, text in {**PICTURES, **WORDS}.items():
        what = whats.add_parser(name, help=text, description=text)
        what.set_defaults(command="show", what=name)
        what.add_argument("subject", nargs="*", metavar="SUBJECT", help=SUBJECT[name])
        what.add_argument("--results", default="results", metavar="DIR", help="results folder (default: ./results)")
        if name == "run":
            continue
        what.add_argument("--scale", help="of the grid's row (default: the one that was run)")
        if name in ("recipe", "masks"):
            what.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="sets",
                              help="change a value of the row, such as masker.ratio=0.6; repeatable")  # fmt: skip
        if name != "recipe":
            what.add_argument("--seed", type=int, metavar="N", help="of the grid's row (default: its first)")
            what.add_argument("--data", metavar="NAME", help="other images: a data set's name, or a path with a '/'")
            what.add_argument("--images", type=int, default=8, metavar="N", help="how many (default: %(default)s)")


def show(options: argparse.Namespace) -> int:
    with quick_imports():
        lines = list(SHOWN[options.what](options))
    for line in lines:
        print(for_terminal(line))
    return EXIT_OK


def _recipe(options: argparse.Namespace) -> Iterator[str]:
    from mimbench.show.recipe import recipe_lines

    if len(options.subject) != 2:
        raise UserError("show recipe: give a grid and its row, such as `mimbench show recipe ablations beit`.")
    grid = _grid(options)
    return recipe_lines(grid, options.subject[1])


def _grid(options: argparse.Namespace) -> Grid:
    """As it would be run; its row is checked."""
    from mimbench.config.grid import load_grid

    file, row = options.subject
    grid = load_grid(file, scale=options.scale, sets=tuple(options.sets))
    check_known(file, "row", row, [found.name for found in grid.rows])
    return grid


def _run(options: argparse.Namespace) -> Iterator[str]:
    from mimbench.cli.jobs import states_of
    from mimbench.launch.state import find_run
    from mimbench.show.run import run_lines

    if len(options.subject) != 1:
        raise UserError("show run: give the name of one run, or a prefix of its hash.")
    store = Store(options.results)
    folder = find_run(store, options.subject[0])
    return run_lines(store, folder, states_of(store, [folder.name])[0][folder.name].state)


def _masks(options: argparse.Namespace) -> Iterator[str]:
    from mimbench.show.masks import show_masks
    from mimbench.show.subject import was_run

    words = options.subject
    if not words:
        yield from map(str, _every_masker(options))
    elif len(words) == 2 and (options.sets or not was_run(Store(options.results), words[0], options.scale)):
        yield str(_untrained_masks(options))
    else:
        yield str(show_masks(_subject(options), options.data, _count(options)))


def _untrained_masks(options: argparse.Namespace) -> Path:
    """Of a row as it would be run."""
    from mimbench.parts import PatchGrid
    from mimbench.show.images import shown_images
    from mimbench.show.masks import draw_masks
    from mimbench.show.subject import Subject

    grid, store = _grid(options), Store(options.results)
    row = next(row for row in grid.rows if row.name == options.subject[1])
    if not row.recipe.pretrain:
        raise UserError(f"{row.label}: has no masker: nothing is pre-trained.")
    patches = PatchGrid.of(row.recipe.data.size, row.recipe.encoder.patch)
    changed = f" with {' '.join(options.sets)}" if options.sets else ""
    subject = Subject(store, f"{row.label}{changed}", f"{grid.name}.{row.name}", store.root / "pictures")
    images = shown_images(row.recipe.data, options.data, _count(options), store.cache)
    return draw_masks(subject, row.recipe.masker, patches, images, options.seed or 0)


def _every_masker(options: argparse.Namespace) -> Iterator[Path]:
    """Each that is registered, with its default arguments."""
    from mimbench import registry
    from mimbench.config.parts import resolve
    from mimbench.config.schema import DataConfig
    from mimbench.parts import PatchGrid
    from mimbench.show.images import shown_images
    from mimbench.show.masks import draw_masks
    from mimbench.show.subject import Subject

    for option, given in (("--set", options.sets), ("--scale", options.scale), ("--seed", options.seed is not None)):
        if given:
            raise UserError(f"show masks: {option} belongs to a row: give a grid and its row.")
    store, grid = Store(options.results), PatchGrid(MASKER_GRID, MASKER_GRID, MASKER_PATCH)
    data = DataConfig(size=MASKER_GRID * MASKER_PATCH)
    images = shown_images(data, options.data, _count(options), store.cache)
    for name, *_ in registry.listing("masker"):
        subject = Subject(store, name, name, store.root / "pictures")
        yield draw_masks(subject, resolve("masker", name, name), grid, images)


def _picture(module: str, function: str) -> Callable[[argparse.Namespace], Iterator[str]]:
    """Drawn by a function of `mimbench.show`, imported when it is needed."""

    def draw(options: argparse.Namespace) -> Iterator[str]:
        import importlib

        drawn = getattr(importlib.import_module(f"mimbench.show.{module}"), function)
        yield str(drawn(_subject(options), options.data, _count(options)))

    return draw


def _subject(options: argparse.Namespace) -> Subject:
    from mimbench.show.subject import find_subject

    store = Store(options.results)
    return find_subject(store, options.subject, options.scale, options.seed, own_data=options.data is None)


def _count(options: argparse.Namespace) -> int:
    if not 1 <= options.images <= MOST:
        raise UserError(f"--images: must be from 1 to {MOST}, not {options.images}.")
    return int(options.images)


SHOWN = {
    "masks": _masks,
    **{name: _picture(name, f"show_{name}") for name in PICTURES if name != "masks"},
    "recipe": _recipe,
    "run": _run,
}
