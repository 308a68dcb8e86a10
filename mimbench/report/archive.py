"""A copy of a grid's records and report that is small enough to commit. For reading; never taken for work done."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from mimbench.errors import UserError
from mimbench.report.analysis import analyse
from mimbench.report.build import write_report
from mimbench.report.collect import Grid, Record
from mimbench.store.files import read_json, write_atomically, write_json
from mimbench.store.results import Store

CURVE_LINES = 200  # kept of a run's curve: every k-th and the last


def published_copy(store: Store, name: str, scale: str, target: Path) -> Path:
    """Write records.jsonl, curves.csv, grid.json, the report and a README into `target`."""
    if target.exists() and any(target.iterdir()) and not (target / "records.jsonl").exists():
        raise UserError(f"{target}: holds something else than published records. Name an empty folder.")
    analysis = analyse(store, name, scale)
    grid = analysis.grid
    write_json(target / "grid.json", read_json(store.grid_path(name, scale)))
    write_atomically(target / "records.jsonl", "".join(map(_line, grid.records.values())))
    write_atomically(target / "curves.csv", _curves(grid))
    write_report(analysis, target, runs_at=None)
    for path in target.glob("*.svg"):  # the page holds them
        path.unlink()
    write_atomically(target / "README.md", _readme(grid))
    return target


def _line(record: Record) -> str:
    """A run a line, in the order of names: what changed between two copies shows in a diff."""
    value = {"run": record.name, "state": record.state, "spec": record.spec, "result": record.result,
             "cost": record.cost, "attempts": record.attempts}  # fmt: skip
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n"


def _curves(grid: Grid) -> str:
    """All curves in one file, thinned, with the columns that any of them has."""
    lines: list[dict[str, str]] = []
    for record in grid.records.values():
        path = record.folder / "curve.csv"
        if path.exists():
            with path.open(newline="", encoding="utf-8", errors="replace") as stream:
                own = list(csv.DictReader(stream))
            step = -(-len(own) // CURVE_LINES) or 1
            kept = own[::step] + (own[-1:] if (len(own) - 1) % step else [])
            lines += [{"run": record.name} | {k: v for k, v in line.items() if k and v is not None} for line in kept]
    columns = dict.fromkeys(column for line in lines for column in line)
    stream_out = io.StringIO()
    writer = csv.DictWriter(stream_out, list(columns) or ["run"], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return stream_out.getvalue()


def _readme(grid: Grid) -> str:
    done = sum(record.state == "done" for record in grid.records.values())
    return f"""# {grid.title}: records and report

Grid `{grid.name}` at scale `{grid.scale}`, as it came out: {done} of {len(grid.records)} runs done, {len(grid.seeds)} \
seed(s).

These files are for reading. They never count as work done: mimbench looks for finished runs under `results/runs/`
alone, and repeats every run that it does not find there.

| file | what it holds |
|---|---|
| `index.html`, `table.*`, `costs.csv`, `*.png` | the report |
| `records.jsonl` | a run a line: its spec, result, cost and attempts (host, versions, commit) |
| `curves.csv` | the runs' curves, at most about {CURVE_LINES} lines of each |
| `grid.json` | which run stands in which row, protocol and seed |

`{grid.config or grid.name}` says how to do it again.
"""
