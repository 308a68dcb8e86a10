"""What a reader must know beside the numbers: flags of results, stale results, failed runs, mixed machines."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from mimbench.report.collect import Grid, RunRecord

NOT_COMPARED = {"pid", "job", "slurm_job", "started", "time", "attempt", "attempts", "command", "cwd"}


def result_notices(grid: Grid) -> list[str]:
    """From the results alone, so that the same records give the same notices on every machine."""
    notices = []
    for kind in grid.kinds:
        seeds: dict[tuple[str, str], list[int]] = defaultdict(list)  # by text and row
        for row in grid.rows:
            for seed, record in grid.runs(row, kind).items():
                for text in _flags(record, grid):
                    seeds[text, row.label].append(seed)
        rows: dict[tuple[str, str], list[str]] = defaultdict(list)  # a shared run is named once for its rows
        for (text, label), found in seeds.items():
            rows[text, _seeds(found)].append(label)
        notices += [f"{grid.label(kind)} of {'; '.join(names)}: {text} ({of_seeds})"
                    for (text, of_seeds), names in rows.items()]  # fmt: skip
    return notices


def row_flags(grid: Grid) -> dict[str, list[str]]:
    """The flags of each row's results, by its name."""
    found: dict[str, list[str]] = {}
    for row in grid.rows:
        seeds: dict[str, list[int]] = defaultdict(list)
        for kind in grid.kinds:
            for seed, record in grid.runs(row, kind).items():
                for text in _flags(record, grid):
                    seeds[f"{grid.label(kind)}: {text}"].append(seed)
        if seeds:
            found[row.name] = [f"{text} ({_seeds(own)})" for text, own in seeds.items()]
    return found


def _seeds(seeds: list[int]) -> str:
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def _flags(record: RunRecord, grid: Grid) -> list[str]:
    """Those that the result carries, and the parents whose weights are no longer those that it was computed from."""
    if record.result is None:
        return []
    flags = list(record.result["flags"])
    for used in record.result.get("parents", {}).values():
        parent = grid.records.get(used["run"])
        if parent and parent.result and is_stale(used, parent.result):
            flags.append(f"stale: the parent {parent.name} was retrained. Move this run's folder away and run the grid "
                         "again")  # fmt: skip
    return flags


def is_stale(used: dict[str, Any], parent: dict[str, Any]) -> bool:
    """Whether the parent left something else since: weights, or the pooling that it chose."""
    if "weights_sha256" in used:
        return bool(used["weights_sha256"] != parent.get("weights_sha256"))
    return bool(used["pooling"] != parent["values"].get("chosen", {}).get("pooling"))


def run_notices(grid: Grid) -> list[str]:
    """Runs that failed or whose files cannot be read."""
    return [f"{record.name} ({record.state}): {record.problem}" for record in grid.records.values() if record.problem]


def machine_notices(grid: Grid) -> list[str]:
    """What may make numbers of one table differ although their specs agree."""
    last = _last_attempts(grid)
    dirty = sorted(name for name, facts in last.items() if (facts.get("git") or {}).get("dirty"))
    notices = []
    if dirty:
        more = ", ..." if len(dirty) > 1 else ""
        notices.append(
            f"{len(dirty)} of {len(last)} runs used a working tree with uncommitted changes ({dirty[0]}{more})."
        )
    for field, values in machine_facts(grid).items():
        if len(values) > 1:
            spread = ", ".join(f"{value} ({count} runs)" for value, count in values.items())
            notices.append(f"The runs differ in {field}: {spread}.")
    return notices


def machine_facts(grid: Grid) -> dict[str, dict[str, int]]:
    """Of the last attempt of every finished run: field -> value -> number of runs, the most frequent first."""
    facts: dict[str, Counter[str]] = defaultdict(Counter)
    for attempt in _last_attempts(grid).values():
        for field, value in _flat(attempt).items():
            facts[field][value] += 1
    return {field: dict(sorted(counts.items(), key=lambda c: (-c[1], c[0]))) for field, counts in facts.items()}


def days(grid: Grid) -> list[str]:
    """The first and the last day on which a run was started, from the names of the attempts; one if they are the same."""
    stamps = {name[:8] for record in grid.records.values() for name in record.attempts}
    ends = sorted({min(stamps), max(stamps)}) if stamps else []
    return [f"{stamp[:4]}-{stamp[4:6]}-{stamp[6:]}" for stamp in ends]


def _last_attempts(grid: Grid) -> dict[str, dict[str, Any]]:
    done = {name: record.attempts for name, record in grid.records.items() if record.state == "done"}
    return {name: attempts[max(attempts)] for name, attempts in done.items() if attempts}


def _flat(attempt: dict[str, Any]) -> dict[str, str]:
    """Commit, versions and plain values. What differs between any two runs is left out."""
    git = attempt.get("git") or {}
    flat = {"git commit": git["sha"][:12]} if git.get("sha") else {}
    flat |= {f"version of {name}": version for name, version in sorted(attempt.get("versions", {}).items())}
    for field, value in attempt.items():
        if field not in NOT_COMPARED and not isinstance(value, dict | list):
            flat[field] = "none" if value is None else str(value)
    return flat
