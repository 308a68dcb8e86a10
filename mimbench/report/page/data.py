"""What the page knows, as JSON in it: every number, recipe and run, for its scripts."""

from __future__ import annotations

import base64
import json
import math
import re
import shlex
from collections.abc import Mapping
from typing import Any

from mimbench.report.analysis import Analysis
from mimbench.report.bibtex import bibtex
from mimbench.report.collect import Grid, Row
from mimbench.report.costs import costs
from mimbench.report.curves import read_curve, thinned
from mimbench.report.format import duration
from mimbench.report.notices import row_flags
from mimbench.report.pictures import Picture
from mimbench.report.table import Table

MOST_CURVES = 400  # runs; of a larger grid, curves lie in the runs' folders alone
POINTS = 60  # of a curve
PARTS = ("tokenizer", "masker", "loss", "encoder")


def as_script(data: Any) -> str:
    """JSON that cannot end the element it stands in."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def page_data(table: Table, runs_at: str | None, pictures: Mapping[str, list[Picture]]) -> dict[str, Any]:
    grid = table.grid
    recipes = {row.name: flat(recipe(grid, row)) for row in grid.rows}
    common = recipes.get(grid.base, {})
    flags, spent, curves = row_flags(grid), _costs(grid), _curves(grid)
    flops = dict(zip((row.name for row in grid.rows), table.flops or [], strict=False))
    numbers = statistics_data(Analysis(grid, table.cells))
    for row, line in zip(grid.rows, numbers["rows"], strict=True):
        line |= {
            "label": row.label, "description": row.description, "parts": _parts(recipes[row.name]),
            "recipe": _against(recipes[row.name], common), "flags": flags.get(row.name, []), "cost": spent.get(row.name, []),
            "flops": flops.get(row.name), "runs": row.runs, "curves": curves.get(row.name, {}), "command": _command(grid, row),
            "bibtex": bibtex(table.paper, row), "pictures": [_picture(found) for found in pictures.get(row.name, [])],
            "unfinished": {protocol: text for protocol in line["values"] if (text := table.cells[row.name, protocol].unfinished)},
        }  # fmt: skip
    states = {name: record.state for name, record in grid.records.items() if record.state != "done"}
    return {**numbers, "recipe": common, "states": states, "runs_at": runs_at}


def statistics_data(analysis: Analysis) -> dict[str, Any]:
    """What the statistics are computed from: values by row, protocol and seed, none rounded."""
    grid = analysis.grid
    rows = [
        {"name": row.name, "reference": row.reference,
         "values": {c.protocol: analysis.cells[row.name, c.protocol].values
                    for c in grid.columns if (row.name, c.protocol) in analysis.cells}}
        for row in grid.rows
    ]  # fmt: skip
    columns = [{"protocol": c.protocol, "heading": c.heading, "unit": c.unit} for c in grid.columns]
    about = {"compared_with": grid.compared_with, "primary": grid.primary, "seeds": grid.seeds, "unit": grid.unit,
             "seeds_per_replicate": math.prod(grid.nested.values()),
             "replicates": len({grid.replicate(seed) for seed in grid.seeds})}  # fmt: skip
    return {"grid": about, "columns": columns, "rows": rows}


def recipe(grid: Grid, row: Row) -> dict[str, Any]:
    """As resolved: of its first pre-training, with its tokenizer's training; of a row without any, its encoder."""
    found: dict[str, Any] = {}
    for kind in grid.kinds:
        spec = next((record.spec for record in grid.runs(row, kind).values() if record.spec), None)
        if spec is None:
            continue
        if kind == "pretrain":
            found |= spec.get("recipe", {})
        elif kind == "tokenizer":
            found["tokenizer_training"] = spec.get("training", {})
        elif "encoder" in spec and "encoder" not in found:
            found["encoder"] = spec["encoder"]
    return found


def flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value; a list is a value."""
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found |= flat(inner, f"{prefix}{key}.") if isinstance(inner, dict) else {f"{prefix}{key}": inner}
    return found


def _against(own: dict[str, Any], common: dict[str, Any]) -> dict[str, Any]:
    """A recipe as its difference from one that all share: pages of thousands of rows stay small."""
    return {"changed": {key: value for key, value in own.items() if key not in common or common[key] != value},
            "without": [key for key in common if key not in own]}  # fmt: skip


def _parts(flat_recipe: dict[str, Any]) -> dict[str, list[str]]:
    """The types of each kind of part: a recipe may have several terms."""
    return {
        part: sorted({str(value) for key, value in flat_recipe.items() if re.search(rf"(^|\.){part}\.type$", key)})
        for part in PARTS
    }


def _costs(grid: Grid) -> dict[str, list[list[str]]]:
    """By row: kind, runs, mean time, mean images, peak memory."""
    found: dict[str, list[list[str]]] = {}
    spent = costs(grid).astype(object)
    for line in spent.where(spent.notna(), None).to_dict("records"):
        peak = line["peak_memory_bytes"]
        found.setdefault(line["row"], []).append([
            line["kind"], str(line["runs"]), duration(line["mean_seconds"]), f"{line['mean_images']:,.0f}",
            "" if peak is None else f"{peak / 2**20:,.0f} MiB",
        ])  # fmt: skip
    return found


def _curves(grid: Grid) -> dict[str, dict[int, list[list[float]]]]:
    """By row and seed: steps and losses, thinned."""
    runs = [(row.name, seed, run) for row in grid.rows for seed, run in grid.runs(row, "pretrain").items()]
    found: dict[str, dict[int, list[list[float]]]] = {}
    for name, seed, run in runs if len(runs) <= MOST_CURVES else ():
        whole = read_curve(run.folder / "curve.csv")
        if len(whole):
            curve = thinned(whole[whole["loss"].map(math.isfinite)].reset_index(drop=True), POINTS)
            steps, losses = ([float(f"{value:.4g}") for value in curve[key]] for key in ("step", "loss"))
            found.setdefault(name, {})[seed] = [steps, losses]
    return found


def _command(grid: Grid, row: Row) -> str:
    words = ["mimbench", "run", "grid", grid.config, *grid.arguments, "--only", row.name]
    return shlex.join(words)


def _picture(picture: Picture) -> dict[str, str]:
    return {"caption": picture.caption, "uri": f"data:image/png;base64,{base64.b64encode(picture.png).decode()}"}
