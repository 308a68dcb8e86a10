"""A copy of a grid's records and report that is small enough to commit. Its runs count as done only where it is merged."""

from __future__ import annotations

import json
import math
import shlex
from pathlib import Path
from typing import Any

from mimbench.errors import UserError
from mimbench.inert import for_markdown
from mimbench.report.analysis import analyze
from mimbench.report.build import write_report
from mimbench.report.collect import Grid, RunRecord, read_run
from mimbench.report.curves import written_curve
from mimbench.report.format import count, csv
from mimbench.report.shown import copy_pictures
from mimbench.store.files import read_json, write_atomically, write_json
from mimbench.store.published import CURVES, GRID, RECORDS
from mimbench.store.results import Store

CURVE_LINES = 200  # kept of a run's curve: every k-th one and the last


def published_copy(store: Store, name: str, scale: str, target: Path) -> Path:
    """Write records.jsonl, curves.csv, grid.json, the report and a README into `target`."""
    if target.exists() and any(target.iterdir()) and not (target / RECORDS).exists():
        raise UserError(f"{target}: not a folder of published records. Name an empty folder.")
    analysis = analyze(store, name, scale)
    write_records(store, analysis.grid, target)
    copy_pictures(store.report_folder(name, scale), target)
    write_report(analysis, target, runs_at=None)
    for path in target.glob("*.svg"):  # the page holds them
        path.unlink()
    write_atomically(target / "README.md", _readme(analysis.grid, read_json(store.grid_path(name, scale))))
    return target


def write_records(store: Store, grid: Grid, target: Path) -> None:
    """What the tables follow from."""
    write_json(target / GRID, read_json(store.grid_path(grid.name, grid.scale)))
    write_atomically(target / RECORDS, "".join(map(_line, _with_ancestors(store, grid))))
    write_atomically(target / CURVES, _curves(grid))


def _with_ancestors(store: Store, grid: Grid) -> list[RunRecord]:
    """All that the runs of its rows rest on: a row names one of its tokenizers only."""
    found, waiting = {}, list(grid.records.values())
    while waiting:
        record = waiting.pop()
        found[record.name] = record
        parents = (record.spec or {}).get("parents", {}).values()
        waiting += [read_run(store.run(name)) for name in parents if name not in found and name not in grid.records]
    return [record for _, record in sorted(found.items())]


def _line(record: RunRecord) -> str:
    """One line per run, sorted by name, so that a diff of two copies shows what changed."""
    value = {"run": record.name, "state": record.state, "spec": record.spec, "result": record.result,
             "cost": record.cost, "attempts": record.attempts}  # fmt: skip
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n"


def _curves(grid: Grid) -> str:
    """All curves in one file, thinned, with the columns that any of them has."""
    import pandas as pd

    curves = [pd.DataFrame(columns=["run"], dtype=str)]
    for record in grid.records.values():
        curve = written_curve(record.folder / "curve.csv")
        if len(curve):
            step, last = math.ceil((len(curve) - 1) / CURVE_LINES) or 1, len(curve) - 1
            curve.insert(0, "run", record.name)
            curves.append(curve[(curve.index % step == 0) | (curve.index == last)])
    return csv(pd.concat(curves))


def _readme(grid: Grid, recorded: dict[str, Any]) -> str:
    done = sum(record.state == "done" for record in grid.records.values())
    return for_markdown(f"""# {grid.title}: records and report

Grid `{grid.name}` at scale `{grid.scale}`: {done} of {count(len(grid.records), "run")} done, \
{count(len(grid.seeds), "seed")}.

These files are for reading. They never count as work done: mimbench looks for finished runs under `results/runs/`
only, and repeats every run that it does not find there. `mimbench merge PATH_OF_THIS_FOLDER --into results` imports them; from
then on they count as done there.

| file | content |
|---|---|
| `index.html`, `table.*`, `costs.csv`, `*.png` | the report |
| `records.jsonl` | one run per line: spec, result, cost and attempts (host, versions, commit) |
| `curves.csv` | the curves of the runs, about {CURVE_LINES} lines of each at most |
| `grid.json` | the run of each row, protocol and seed |

To reproduce them: `{_command(grid, recorded)}`.
""")


def _command(grid: Grid, recorded: dict[str, Any]) -> str:
    """It plans the same runs; seeds that are no range from 0 stand in the grid file. `recorded`: also what was not planned."""
    words = ["mimbench", "run", "grid", grid.config, *grid.arguments]
    if grid.seeds == list(range(len(grid.seeds))):
        words += ["--seeds", str(len(grid.seeds))]
    if len(grid.columns) < len(recorded["columns"]):
        words += ["--protocols", ",".join(column.protocol for column in grid.columns)]
    if len(grid.rows) < len(recorded["rows"]):
        words += [word for row in grid.rows for word in ("--only", row.name)]
    return shlex.join(words)
