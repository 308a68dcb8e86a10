"""`mimbench evaluate WEIGHTS`: a grid of two rows, the checkpoint and its architecture from random initialization."""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
from pathlib import Path
from typing import Any

import yaml

from mimbench.config.grid import load_grid
from mimbench.config.schema import Evaluation
from mimbench.data.sources import source
from mimbench.models.foreign import described
from mimbench.plan.checkpoints import examine

HEADER = "# Written by `mimbench evaluate`. Rows can be added: mimbench run grid {path}\n"


def write_grid(options: argparse.Namespace) -> Path:
    """The grid, and with --data its scale, as files under the results; `options` then name them as `run grid` expects."""
    folder, name = Path(options.results) / "evaluate", _file_name(options.weights)
    path = folder / f"evaluate-{name}.yaml"
    theirs: dict[str, Any] = {
        "name": "checkpoint",
        "label": Path(options.weights).name,
        "pretrain": {"weights": options.weights},
    }
    grid = {"name": path.stem, "title": f"{options.weights} and its architecture from random initialization", "base": "beit",
            "scale": options.scale, "seeds": 3, "protocols": options.protocols.split(","), "reference": "random"}  # fmt: skip
    options.file = str(_write(path, {**grid, "rows": [theirs], "reference": "checkpoint"}))
    planned = load_grid(options.file, scale=options.scale, sets=tuple(options.sets))
    recipe, place = planned.rows[0].recipe, "mimbench evaluate"
    encoder, loaded = examine(options.weights, recipe.stated, planned.evaluation.data.size, place)
    print(f"{options.weights}: {described(loaded)}", file=sys.stderr)
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
    if options.data is not None:
        scale = folder / f"{planned.scale}-{_file_name(options.data)}.yaml"
        options.scale = str(_write(scale, _scale_on(options.data, options.scale, planned.evaluation)))
    return path


def _scale_on(data: str, base: str, evaluation: Evaluation) -> dict[str, Any]:
    """The scale on other images: as many of each split as it has, up to the scale's own number."""
    available = source(data).counts()
    counts = {
        split: min(wanted, available[split])
        for split, wanted in vars(evaluation.counts()).items()
        if wanted is not None
    }
    return {"base": base, "data": {"name": data}, "evaluation": {"data": {"name": data}, **counts}}


def _file_name(text: str) -> str:
    """A path or a name as part of a file's name."""
    stem = Path(text).name.removesuffix(".safetensors").removesuffix(".pth").removesuffix(".pt").removesuffix(".bin")
    return re.sub(r"[^\w.-]+", "-", stem).strip(".-") or "checkpoint"


def _write(path: Path, content: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(HEADER.format(path=path) + yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path
