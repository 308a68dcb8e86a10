"""`mimbench status` and `mimbench why`: how far the runs of every grid are, in words."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from mimbench.errors import UserError
from mimbench.launch.state import STATES, TAIL, Seen, log_tail, look, runs_of, seconds_of
from mimbench.report.format import duration
from mimbench.store.results import RunFolder, Store

LETTERS = {"running": "r", "queued": "q", "failed": "f", "blocked": "b", "stopped": "s"}
MANY = 12  # lines of one sort before the rest is counted
WATCH_SECONDS = 5.0


@dataclass(frozen=True)
class Status:
    """How grids stand now."""

    lines: tuple[str, ...]
    moving: bool  # something runs or waits


def status(store: Store, grid: str | None = None) -> Status:
    """For each grid a table of rows and kinds, its cost so far, then what runs, waits and failed, and why."""
    lines, moving = [], False
    for _, record in store.grids(grid):
        if isinstance(record, UserError):
            lines.append(str(record))
            continue
        seen, warning = look(store, runs_of(record))
        lines += _grid_lines(record, seen, warning)
        moving = moving or any(one.state in ("running", "queued") for one in seen.values())
    if not lines:
        named = f"grid {grid}" if grid else "grid"
        lines = [
            f"{store.root}: no {named} was run there yet." if store.root.is_dir() else f"{store.root}: no such folder."
        ]
    elif not os.access(store.root, os.W_OK):
        lines.insert(0, f"{store.root}: cannot be written now; what runs there cannot note how far it is.")
    return Status(tuple(lines), moving)


def _grid_lines(record: dict[str, Any], seen: dict[str, Seen], warning: str) -> Iterator[str]:
    seeds = ", ".join(map(str, record["seeds"]))
    yield f"{record['name']} at scale {record['scale']}: {len(record['rows'])} rows, seeds {seeds}"
    if warning:
        yield f"  {warning}"
    yield from _table(record, seen)
    counts = Counter(one.state for one in seen.values())
    spent = sum(seconds_of(one.folder) for one in seen.values())
    parts = ", ".join(f"{counts[s]} {s}" for s in STATES if counts[s])
    yield f"  {len(seen)} runs: {parts}; {duration(spent)} of process time so far"
    for state in ("running", "queued", "stopped", "failed", "blocked"):
        yield from _listed(state, [one for one in seen.values() if one.state == state])


def _table(record: dict[str, Any], seen: dict[str, Seen]) -> Iterator[str]:
    kinds = list(dict.fromkeys(kind for row in record["rows"] for runs in row["runs"].values() for kind in runs))
    kinds.sort(key=lambda kind: ("tokenizer", "pretrain").index(kind) if kind in ("tokenizer", "pretrain") else 2)
    cells = {}
    for row in record["rows"]:
        for kind in kinds:
            names = [runs[kind] for runs in row["runs"].values() if kind in runs]
            cells[row["name"], kind] = _cell([seen[n].state for n in names])
    rows = [row["name"] for row in record["rows"]]
    widths = {kind: max([len(kind), *(len(cells[row, kind]) for row in rows)]) + 2 for kind in kinds}
    first = max(map(len, rows), default=0)
    yield f"  {'':{first}}" + "".join(f"{kind:>{widths[kind]}}" for kind in kinds)
    for row in rows:
        yield f"  {row:{first}}" + "".join(f"{cells[row, kind]:>{widths[kind]}}" for kind in kinds)
    if any(letter in cell for cell in cells.values() for letter in LETTERS.values()):
        yield "  " + ", ".join(f"{letter} {state}" for state, letter in LETTERS.items())


def _cell(states: list[str]) -> str:
    """`2/3 1r`: done of all, then what the others are at."""
    if not states:
        return "-"
    counts = Counter(states)
    rest = "".join(f" {counts[state]}{letter}" for state, letter in LETTERS.items() if counts[state])
    return f"{counts['done']}/{len(states)}{rest}"


def _listed(state: str, some: list[Seen]) -> Iterator[str]:
    """One line a run; what waits or is blocked is counted by its reason."""
    if state in ("queued", "blocked"):
        reasons = Counter(one.detail.partition(": ")[2] or one.detail for one in some)
        for reason, count in reasons.most_common(MANY):
            yield f"  {state}: {count} {'run' if count == 1 else 'runs'}: {reason}"
        return
    for one in some[:MANY]:
        yield f"  {state}: {one.name}" + (
            f" {one.detail}" if state == "running" else f": {one.detail}" if one.detail else ""
        )
    if len(some) > MANY:
        yield f"  {state}: {len(some) - MANY} more"


def watch(look_again: Callable[[], Status]) -> None:
    """Again and again, until nothing runs or waits; on a terminal in place."""
    if sys.stdout.isatty():
        from rich.live import Live
        from rich.text import Text

        with Live(screen=False, auto_refresh=False) as live:
            while (now := look_again()).moving:
                live.update(Text("\n".join(now.lines)), refresh=True)
                time.sleep(WATCH_SECONDS)
            live.update(Text("\n".join(now.lines)), refresh=True)
            return
    while True:
        now = look_again()
        print("\n".join([time.strftime("%H:%M:%S"), *now.lines]), flush=True)
        if not now.moving:
            return
        time.sleep(WATCH_SECONDS)


def why_lines(store: Store, folder: RunFolder) -> Iterator[str]:
    """What a run waits for, where it is, or why it failed, with the last lines of its log."""
    names = [*_ancestors(store, folder.name), folder.name]
    seen, warning = look(store, names)
    if warning:
        yield warning
    one = seen[folder.name]
    yield f"{folder.name}: {one.state}" + (f" {one.detail}" if one.detail else "")
    parents = folder.spec().get("parents", {})
    if one.state in ("queued", "planned", "stopped"):
        for role, parent in parents.items():
            if seen[parent].state != "done":
                yield f"  waits for its {role}: {parent}: {seen[parent].state} {seen[parent].detail}".rstrip()
        if one.state in ("planned", "stopped") and all(seen[p].state == "done" for p in parents.values()):
            yield "  nothing is in its way: run its grid again"
    shown = one
    if one.state == "blocked":
        shown = seen[one.detail.removeprefix("by ")]
        yield f"  {shown.name}: {shown.state} {shown.detail}"
    if shown.state == "failed":
        yield "  the last lines of its log:"
        yield from (f"    {line}" for line in log_tail(shown.folder, shown.job, TAIL))


def _ancestors(store: Store, name: str) -> list[str]:
    """Parents before children."""
    found: list[str] = []
    for parent in store.run(name).spec().get("parents", {}).values():
        found += [*_ancestors(store, parent), parent]
    return list(dict.fromkeys(found))
