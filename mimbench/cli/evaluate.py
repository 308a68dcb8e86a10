"""`mimbench evaluate WEIGHTS`: a grid of two rows, the checkpoint and its architecture from random initialization."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

import yaml

from mimbench.config.grid import load_grid
from mimbench.models.foreign import described
from mimbench.plan.checkpoints import examine
from mimbench.store.files import file_name

HEADER = "# Written by `mimbench evaluate`. Rows can be added: mimbench run grid {path}\n"


def write_grid(options: argparse.Namespace) -> Path:
    """The grid as a file under the results; `options` then name it as `run grid` expects."""
    folder, name = Path(options.results) / "evaluate", file_name(options.weights)
    path = folder / f"evaluate-{name}.yaml"
    theirs: dict[str, Any] = {
        "name": "checkpoint",
        "label": Path(options.weights).name,
        "pretrain": {"weights": options.weights},
    }
    grid = {"name": path.stem, "title": f"{options.weights} and its architecture from random initialization", "base": "beit",
            "scale": options.scale, "seeds": 3, "protocols": options.protocols.split(","), "reference": "random"}  # fmt: skip
    options.file = str(_write(path, {**grid, "rows": [theirs], "reference": "checkpoint"}))
    planned = load_grid(options.file, scale=options.scale, data=options.data, sets=tuple(options.sets))
    recipe, place = planned.rows[0].recipe, "evaluate"
    examined = examine(options.weights, recipe.stated, planned.evaluation.data.size, place)
    encoder = examined.encoder
    print(f"{options.weights}: {described(examined.loaded)}", file=sys.stderr)
    print(
        f"encoder: {', '.join(f'{key} {value}' for key, value in dataclasses.asdict(encoder).items())}", file=sys.stderr
    )
    random = {
        "name": "random",
        "label": "random initialization",
        "pretrain": False,
        "encoder": dataclasses.asdict(encoder),
    }
    _write(path, {**grid, "rows": [random, theirs]})
    return path


def _write(path: Path, content: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(HEADER.format(path=path) + yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path
