"""`mimbench status` and `mimbench why`: the states of the runs of every grid, in words."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from mimbench.cli.display import progress_words
from mimbench.cli.jobs import grids, states_of, where
from mimbench.cli.titles import titles
from mimbench.errors import UserError
from mimbench.inert import for_terminal
from mimbench.kinds import in_order
from mimbench.launch.logs import last_lines, log_files
from mimbench.launch.state import STATES, RunState, runs_of
from mimbench.report.format import count, duration
from mimbench.store.results import RunFolder, Store, read_elapsed

LETTERS = {"running": "r", "queued": "q", "failed": "f", "blocked": "b", "stopped": "s"}
MANY = 12  # lines per state; the rest is counted
LOG_LINES = 15
NO_BREAK = "\u00a0"  # a space at which no line is broken
WATCH_SECONDS = 5.0
REASONS = {  # of SLURM for a job that waits
    "Dependency": "waiting for its parents",
    "Resources": "waiting for free resources",
    "Priority": "waiting for jobs of higher priority",
    "JobArrayTaskLimit": "waiting: the profile's max_parallel is reached",
    "BeginTime": "requeued, starts again shortly",
    "JobHeldUser": "held by its user",
}


def status(store: Store, grid: str | None = None) -> tuple[list[str], bool]:
    """Per grid a table of rows and kinds, its cost so far, then what is running, queued or failed, and why.

    Returns the lines, and whether a run is running or queued.
    """
    _check_there(store)
    lines: list[str] = []
    moving = False
    for _, record in store.grids(grid):
        if isinstance(record, UserError):
            lines.append(str(record))
            continue
        states, warning = states_of(store, runs_of(record))
        lines += _grid_lines(record, states, warning)
        moving |= any(run.state in ("running", "queued") for run in states.values())
    if grid and not lines:
        grids(store, grid)  # says which there are
    if not lines:
        lines = [f"{store.root}: no run of a grid yet."]
    elif not os.access(store.root, os.W_OK):
        lines.insert(0, f"{store.root}: cannot be written now; running runs cannot save their progress.")
    return lines, moving


def _check_there(store: Store) -> None:
    if not store.root.is_dir():
        raise UserError(f"{store.root}: no such folder. Runs are looked for there; give another one with --results.")


def as_json(store: Store, grid: str | None = None) -> str:
    """Per grid its runs, each with its state, and why."""
    _check_there(store)
    found: list[dict[str, Any]] = []
    for path, record in store.grids(grid):
        if isinstance(record, UserError):
            found.append({"grid": path.stem, "problem": str(record)})
            continue
        states, warning = states_of(store, runs_of(record))
        named = titles([record])
        runs = [{"run": name, "title": named[name], "state": run.state, "reason": _reason(run), "job": run.job,
                 "progress": run.progress} for name, run in states.items()]  # fmt: skip
        counts = Counter(run.state for run in states.values())
        found.append({"grid": record["name"], "scale": record["scale"], "seeds": record["seeds"], "warning": warning,
                      "states": {state: counts[state] for state in STATES}, "runs": runs})  # fmt: skip
    return json.dumps(found, indent=2)


def _grid_lines(record: dict[str, Any], states: dict[str, RunState], warning: str) -> Iterator[str]:
    seeds = ", ".join(map(str, record["seeds"]))
    yield f"{record['name']} at scale {record['scale']}: {len(record['rows'])} rows, seeds {seeds}"
    if warning:
        yield f"  {warning}"
    yield from _table(record, states)
    counts = Counter(run.state for run in states.values())
    spent = sum(_seconds(run.folder) for run in states.values())
    parts = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    yield f"  {len(states)} runs: {parts}; {duration(spent)} of process time so far"
    for state in ("running", "queued", "stopped", "failed", "blocked"):
        yield from _listed(state, [run for run in states.values() if run.state == state])


def _table(record: dict[str, Any], states: dict[str, RunState]) -> Iterator[str]:
    kinds = in_order({kind for row in record["rows"] for runs in row["runs"].values() for kind in runs})
    cells = [[""], *([kind] for kind in kinds)]  # by column
    for row in record["rows"]:
        cells[0].append(row["name"])
        for column, kind in zip(cells[1:], kinds, strict=True):
            column.append(_cell([states[runs[kind]].state for runs in row["runs"].values() if kind in runs]))
    first, *widths = (max(map(len, column)) for column in cells)
    if sys.stdout.isatty() and 2 + first + sum(2 + width for width in widths) > shutil.get_terminal_size().columns:
        yield from _paragraphs(cells)
    else:
        yield from _lines(cells, first, widths)
    if any(run.state in LETTERS for run in states.values()):
        yield "  " + ", ".join(f"{letter} {state}" for state, letter in LETTERS.items())


def _lines(cells: list[list[str]], first: int, widths: list[int]) -> Iterator[str]:
    for name, *rest in zip(*cells, strict=True):
        yield f"  {name:{first}}" + "".join(f"  {cell:>{width}}" for cell, width in zip(rest, widths, strict=True))


def _paragraphs(cells: list[list[str]]) -> Iterator[str]:
    """A row's cells one after the other, for a terminal that is narrower than the table."""
    (_, *kinds), *rows = zip(*cells, strict=True)
    for name, *rest in rows:
        words = [f"{kind} {cell}".replace(" ", NO_BREAK) for kind, cell in zip(kinds, rest, strict=True) if cell != "-"]
        text = textwrap.fill(f"{name}: {', '.join(words)}", shutil.get_terminal_size().columns, initial_indent="  ",
                             subsequent_indent="      ", break_on_hyphens=False)  # fmt: skip
        yield from text.replace(NO_BREAK, " ").splitlines()


def _cell(states: list[str]) -> str:
    """`2/3 1r`: done of all, then the states of the others."""
    if not states:
        return "-"
    counts = Counter(states)
    rest = "".join(f" {counts[state]}{letter}" for state, letter in LETTERS.items() if counts[state])
    return f"{counts['done']}/{len(states)}{rest}"


def _listed(state: str, runs: list[RunState]) -> Iterator[str]:
    """One line per run; queued and blocked runs are counted by reason."""
    if state in ("queued", "blocked"):
        reasons = Counter(_reason(run) for run in runs)
        for reason, number in reasons.most_common(MANY):
            yield f"  {state}: {count(number, 'run')}: {reason}"
        return
    for run in runs[:MANY]:
        yield f"  {state}: {run.name}" + (f": {_reason(run)}" if _reason(run) else "")
    if len(runs) > MANY:
        yield f"  {state}: {len(runs) - MANY} more"


def _reason(run: RunState) -> str:
    if run.state == "queued":
        return REASONS.get(run.reason, run.reason)
    if run.state == "blocked":
        return f"by {run.blocked_by}"
    if run.state == "running":
        return ", ".join([where(run), *([progress_words(run.progress)] if run.progress else [])])
    return run.reason


def _seconds(folder: RunFolder) -> float:
    """Process-seconds that a run has cost so far."""
    try:
        if cost := folder.cost():
            return float(cost["seconds"] * cost["world"])
        return read_elapsed(folder.work) * folder.last_attempt().get("world", 1)
    except (UserError, OSError):
        return 0.0


def watch(store: Store, grid: str | None) -> None:
    """Refresh until no run is running or queued; in place on a terminal."""
    show: Callable[[list[str]], None] = lambda lines: print(time.strftime("%H:%M:%S"), *lines, sep="\n", flush=True)
    with contextlib.ExitStack() as screen:
        if sys.stdout.isatty():
            from rich.live import Live
            from rich.text import Text

            live = screen.enter_context(Live(auto_refresh=False))
            show = lambda lines: live.update(Text("\n".join(lines)), refresh=True)
        while True:
            lines, moving = status(store, grid)
            show([for_terminal(line) for line in lines])
            if not moving:
                return
            time.sleep(WATCH_SECONDS)


def why_lines(store: Store, folder: RunFolder) -> Iterator[str]:
    """What a run waits for, where it runs, or why it failed, with the end of its log."""
    states, warning = states_of(store, [*_ancestors(store, folder.name), folder.name])
    if warning:
        yield warning
    run = states[folder.name]
    yield _line(run)
    parents = folder.spec().get("parents", {})
    missing = {role: name for role, name in parents.items() if states[name].state != "done"}
    if run.state in ("queued", "planned", "stopped"):
        for role, name in missing.items():
            yield f"  waiting for its {role}: {_line(states[name])}"
        if run.state != "queued" and not missing:
            yield "  ready to run: mimbench retry"
    if run.blocked_by:
        run = states[run.blocked_by]
        yield f"  {_line(run)}"
    if run.state == "done":
        yield from _of_done(store, run)
    if run.state == "failed":
        yield "  the end of its log:"
        yield from (f"    {line}" for line in last_lines(log_files(run.folder, run.job), LOG_LINES))


def _of_done(store: Store, run: RunState) -> Iterator[str]:
    """What it is, what it gave, what it cost, and what to look at."""
    records = [record for _, record in store.grids() if not isinstance(record, UserError)]
    for record in records:
        if title := titles([record]).get(run.name):
            yield f"  {record['name']}.{record['scale']}: {title}"
    result, cost = run.folder.result(), run.folder.cost()
    for metric, value in result.get("metrics", {}).items():
        yield f"  {metric} {value:.4g}"
    if chosen := result.get("values", {}).get("chosen"):
        yield f"  chosen on held-out images: {', '.join(f'{key} {value}' for key, value in chosen.items())}"
    if cost:
        yield f"  took {duration(cost['seconds'])} on {cost['host']} ({cost['device']})"
    yield from (f"  flag: {flag}" for flag in result.get("flags", []))
    if not run.folder.has_weights():
        yield "  its weights are gone: `mimbench retry` recomputes them where a run needs them"
    yield f"  records: {run.folder.path}"


def _line(run: RunState) -> str:
    words = [run.name, run.state, f"job {run.job}" if run.state == "queued" else "", _reason(run)]
    return ": ".join(word for word in words if word)


def _ancestors(store: Store, name: str) -> list[str]:
    """Parents before children."""
    found: list[str] = []
    for parent in store.run(name).spec().get("parents", {}).values():
        found += [*_ancestors(store, parent), parent]
    return list(dict.fromkeys(found))
