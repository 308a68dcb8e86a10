"""`show run`: what a run computes, how far it is, what came out, and what it cost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from mimbench.errors import UserError
from mimbench.report.format import count, duration
from mimbench.store.results import RunFolder, Store

SHOWN = 12  # digits of a sha256
CUT = 60  # numbers of a list, beyond which its length stands for it


def run_lines(store: Store, folder: RunFolder, state: str) -> Iterator[str]:
    yield f"{folder.name}: {state}"
    yield f"folder  {folder.path}"
    for grid, row, seed in rows_with(store, folder.name):
        yield f"row     {row} of {grid}, seed {seed}"
    spec = folder.spec()
    for role, name in spec.get("parents", {}).items():
        yield f"parent  {role}: {name}"
    yield from _section("spec", {key: value for key, value in spec.items() if key not in ("kind", "parents")})
    attempts = folder.attempts()
    yield from [
        "",
        count(len(attempts), "attempt") + ("" if attempts else ": it never started"),
        *map(_attempt, attempts),
    ]
    if folder.failed():
        failure = folder.last_failure()
        yield f"  failed: {failure.get('type')}: {failure.get('message')}"
    if folder.done():
        result = folder.result()
        yield from _section(
            "result", {k: v for k, v in result.items() if k not in ("kind", "version", "parents", "protocol")}
        )
        cost = folder.cost()
        yield from ["", f"cost    {_cost(cost)}" if cost else "cost    not recorded"]


def rows_with(store: Store, run: str) -> Iterator[tuple[str, str, str]]:
    """(grid, row, seed) of every row that the run belongs to."""
    for _, record in store.grids():
        if isinstance(record, UserError):
            continue
        for row in record["rows"]:
            for seed, runs in row["runs"].items():
                if run in runs.values():
                    yield f"{record['name']}.{record['scale']}", row["name"], seed


def _section(name: str, value: dict[str, Any]) -> Iterator[str]:
    yield from ("", name)
    text = yaml.safe_dump(_short(value), sort_keys=False, default_flow_style=None, width=110, allow_unicode=True)
    yield from (f"  {line}" for line in text.splitlines())


def _short(value: Any) -> Any:
    """Without what nobody reads: long lists, and most digits of a sha256."""
    if isinstance(value, dict):
        return {key: _short(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return f"({len(value)} values)" if len(value) > CUT else [_short(inner) for inner in value]
    if isinstance(value, str) and len(value) == 64 and not value.strip("0123456789abcdef"):
        return f"{value[:SHOWN]}..."
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _attempt(facts: dict[str, Any]) -> str:
    when = facts["stamp"].partition(".")[0]
    day, clock = f"{when[:4]}-{when[4:6]}-{when[6:8]}", f"{when[9:11]}:{when[11:13]}:{when[13:15]} UTC"
    job = f", job {facts['slurm_job']}" if facts.get("slurm_job") else ""
    found = f"; found {', '.join(facts['found'])}" if facts.get("found") else ""
    versions = " ".join(f"{name} {version}" for name, version in facts.get("versions", {}).items())
    return f"  {day} {clock} on {facts.get('host')} ({facts.get('device')}{job}), {versions}{found}"


def _cost(cost: dict[str, Any]) -> str:
    memory = cost.get("peak_memory_bytes")
    words = [
        duration(cost["seconds"]),
        f"{cost['images']:,} images",
        count(cost["world"], "process").replace("processs", "processes"),
    ]
    words += [f"{memory / 2**30:.2f} GiB at most"] if memory else []
    return f"{', '.join(words)}, on {cost['host']} ({cost['device']})"
