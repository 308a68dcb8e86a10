"""`mimbench evaluate WEIGHTS`: a grid of two rows, the checkpoint and its architecture from random initialization."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from mimbench.cli.parser import USUAL_PROTOCOLS
from mimbench.cli.protocols import protocol_names
from mimbench.config.grid import load_grid
from mimbench.config.merge import packaged
from mimbench.config.schema import Grid
from mimbench.errors import UserError
from mimbench.inert import for_terminal
from mimbench.models.foreign import described
from mimbench.models.released import FILES
from mimbench.plan.checkpoints import examine
from mimbench.store.files import file_name, is_path, sha256_file, write_atomically

HEADER = """\
# Written by `mimbench evaluate`, which replaces it when it is called again: to add rows, copy it under another name.
#   {command}
"""
DIGITS = 6  # of the weights' sha256: two files of one name are two grids

Written = dict[str, Any]


@contextlib.contextmanager
def grid_file(options: argparse.Namespace) -> Iterator[None]:
    """The grid as a file under the results, named as `run grid` expects; taken back if planning it within this context fails."""
    path, text = _examined(options)
    before = path.read_bytes() if path.exists() else None
    write_atomically(path, text)
    options.file = str(path)
    try:
        yield
    except BaseException:
        path.unlink() if before is None else write_atomically(path, before)
        with contextlib.suppress(OSError):  # not empty
            path.parent.rmdir()
        raise


def _examined(options: argparse.Namespace) -> tuple[Path, str]:
    protocols = list(protocol_names(options.protocols))
    label, weights = shown_name(options.weights), _absolute(options.weights)
    own = "" if protocols == USUAL_PROTOCOLS.split(",") else f"-{'-'.join(protocols)}"
    grid = {"title": f"{label} and its architecture from random initialization", "base": "beit", "scale": options.scale,
            "seeds": 3, "protocols": protocols}  # fmt: skip
    theirs = {"name": "checkpoint", "label": label, "pretrain": {"weights": weights}}
    planned = _planned({**grid, "rows": [theirs]}, options)
    recipe = planned.rows[0].recipe
    found = examine(options.weights, recipe.stated, planned.evaluation.data.size, "evaluate")
    grid = {"name": f"evaluate-{file_name(label)}-{sha256_file(found.origin.path)[:DIGITS]}{own}", **grid}
    encoder = dataclasses.asdict(found.encoder)
    print(for_terminal(f"{options.weights}: {described(found.loaded)}"), file=sys.stderr)
    print(f"encoder: {', '.join(f'{key} {value}' for key, value in encoder.items())}", file=sys.stderr)
    random = {"name": "random", "label": "random initialization", "pretrain": False, "encoder": encoder}
    scale_file = Path(planned.scale_file)
    scale = options.scale if scale_file.parent == packaged("scales") else os.path.abspath(scale_file)
    target = Path(options.results) / "evaluate" / f"{grid['name']}.{planned.scale}.yaml"
    content = yaml.safe_dump({**grid, "scale": scale, "rows": [random, theirs], "reference": "random"}, sort_keys=False)
    return target, HEADER.format(command=_command(target, scale, options)) + content


def shown_name(weights: str) -> str:
    """The file's or folder's own name; a file that is called as all are, by its folder."""
    local = Path(_absolute(weights))
    if not local.is_absolute():
        return weights
    return local.parent.name if local.name in FILES else local.name


def _absolute(weights: str) -> str:
    """As any folder can name it."""
    kind, _, name = weights.partition(":")
    local = name if kind == "hf" and os.path.isdir(name) else weights
    return os.path.abspath(local) if os.path.exists(local) else weights


def _planned(grid: Written, options: argparse.Namespace) -> Grid:
    """For the sizes of the scale and what --set states, before anything is written to the results."""
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / "evaluate.yaml"
        draft.write_text(yaml.safe_dump(grid), encoding="utf-8")
        try:
            return load_grid(str(draft), scale=options.scale, data=options.data, sets=tuple(options.sets))
        except UserError as error:
            raise UserError(str(error).replace(str(draft), "evaluate")) from error


def _command(path: Path, scale: str, options: argparse.Namespace) -> str:
    """From any folder."""
    words = ["mimbench", "run", "grid", os.path.abspath(path), "--scale", scale]
    if options.data is not None:
        data = os.path.abspath(os.path.expanduser(options.data)) if is_path(options.data) else options.data
        words += ["--data", data]
    for text in options.sets:
        words += ["--set", text]
    if options.seeds is not None:
        words += ["--seeds", str(options.seeds)]
    return shlex.join([*words, "--results", os.path.abspath(options.results)])
