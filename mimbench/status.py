"""How far the runs of every grid are, read from their folders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from mimbench.errors import UserError
from mimbench.store import Store, read_progress

STATES = ("done", "running", "failed", "stopped", "planned")


def status_lines(store: Store) -> Iterator[str]:
    """A table a grid, kinds down and states across; then the failures, each with its reason."""
    empty = True
    for _, grid in store.grids():
        empty = False
        if isinstance(grid, UserError):
            yield str(grid)
            continue
        names = {run for row in grid["rows"] for runs in row["runs"].values() for run in runs.values()}
        states = {name: store.run(name).state() for name in sorted(names)}
        counts = Counter((store.run(n).kind, s) for n, s in states.items())
        yield f"{grid['name']} at scale {grid['scale']}: {len(grid['rows'])} rows, seeds {', '.join(map(str, grid['seeds']))}"
        yield f"  {'':14}" + "".join(f"{s:>9}" for s in STATES)
        for kind in sorted({kind for kind, _ in counts}):
            yield f"  {kind:14}" + "".join(f"{counts[kind, s] or '-':>9}" for s in STATES)
        for name, state in states.items():
            if state == "failed":
                failure = _failure(store, name)
                yield f"  failed: {name}: {failure.get('type')}: {failure.get('message')}"
            elif state == "running":
                owner = store.run(name).claim_owner() or {}
                progress = read_progress(store.run(name).work)
                step = f", step {progress.get('step')} of {progress.get('steps')}" if progress else ""
                yield f"  running: {name} on {owner.get('host')} (pid {owner.get('pid')}){step}"
    if empty:
        yield f"{store.root}: no grid was run there yet."


def _failure(store: Store, name: str) -> dict[str, Any]:
    try:
        return store.run(name).last_failure() or {}
    except UserError as error:
        return {"type": "unreadable", "message": str(error)}
