"""What a reader must know beside the numbers: flags of results, tokenizers that do not fit, mixed machines."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from mimbench.report.collect import Grid


def result_notices(grid: Grid) -> list[str]:
    """What the results say of themselves; the same on every machine that holds the same records."""
    notices = []
    for kind in grid.kinds():
        column = next((c for c in grid.columns if c.protocol == kind), None)
        rows: dict[tuple[str, tuple[int, ...]], list[str]] = defaultdict(list)  # a shared run speaks once for its rows
        for row in grid.rows:
            texts: dict[str, list[int]] = defaultdict(list)
            for seed, record in grid.runs(row, kind).items():
                for text in (*_own_words(record.result or {}), *_other_weights(record.result or {}, grid)):
                    texts[text].append(seed)
            for text, seeds in texts.items():
                rows[text, tuple(seeds)].append(row.label)
        what = column.label if column else kind
        notices += [
            f"{what} of {'; '.join(labels)}: {text} ({_seeds(seeds)})" for (text, seeds), labels in rows.items()
        ]
    return notices


def _own_words(result: dict[str, Any]) -> list[str]:
    words = [str(flag) for flag in result.get("flags") or []]
    values = result.get("values")
    if isinstance(values, dict) and values.get("fit") is False:
        words.append(f"does not fit: {values.get('why') or 'no reason given'}")
    return words


def _other_weights(result: dict[str, Any], grid: Grid) -> list[str]:
    """Done from weights that are no more: since then the parent was done again, elsewhere, with other bits."""
    words = []
    for kind, parent in (result.get("parents") or {}).items():
        record = grid.records.get(str(parent.get("run"))) if isinstance(parent, dict) else None
        if record and record.result and record.result.get("weights_sha256") != parent.get("weights_sha256"):
            words.append(f"of other weights than the {kind}'s, {record.name}, which was done again since; move it away "
                         "to have it done again too")  # fmt: skip
    return words


def run_notices(grid: Grid) -> list[str]:
    """Runs that failed or whose files cannot be read, named."""
    return [f"{record.name} ({record.state}): {record.problem}" for record in grid.records.values() if record.problem]


def machine_notices(grid: Grid) -> list[str]:
    """What may make numbers of one table differ although their specs agree."""
    notices = []
    last = _last_attempts(grid)
    dirty = sorted(name for name, facts in last.items() if (facts.get("git") or {}).get("dirty"))
    if dirty:
        notices.append(
            f"{len(dirty)} of {len(last)} runs were made from a working tree with uncommitted changes ({dirty[0]}"
            + (", ...)." if len(dirty) > 1 else ").")
        )
    facts = machine_facts(grid)
    for field, values in facts.items():
        if len(values) > 1 and field not in ("attempts", "started"):
            spread = ", ".join(f"{value} ({count} runs)" for value, count in values.items())
            notices.append(f"The runs differ in {field}: {spread}.")
    return notices


def machine_facts(grid: Grid) -> dict[str, dict[str, int]]:
    """Of the last attempt of every run that is done: field -> value -> number of runs."""
    facts: dict[str, dict[str, int]] = {}
    for attempt in _last_attempts(grid).values():
        for field, value in _flat(attempt).items():
            counts = facts.setdefault(field, {})
            counts[value] = counts.get(value, 0) + 1
    return {
        field: dict(sorted(values.items(), key=lambda item: (-item[1], item[0]))) for field, values in facts.items()
    }


def days(grid: Grid) -> tuple[str, str] | None:
    """The first and the last day on which a run was started, from the names of the attempts."""
    stamps = sorted(name[:8] for record in grid.records.values() for name in record.attempts if name[:8].isdigit())
    if not stamps:
        return None
    first, last = (f"{stamp[:4]}-{stamp[4:6]}-{stamp[6:]}" for stamp in (stamps[0], stamps[-1]))
    return first, last


def _last_attempts(grid: Grid) -> dict[str, dict[str, Any]]:
    done = {name: record.attempts for name, record in grid.records.items() if record.state == "done"}
    return {name: attempts[max(attempts)] for name, attempts in done.items() if attempts}


def _flat(attempt: dict[str, Any]) -> dict[str, str]:
    """Git and versions by their parts, plain values as they are; what varies by nature is left out."""
    git = attempt.get("git") or {}
    flat = {"git commit": str(git["sha"])[:12]} if git.get("sha") else {}
    for field, value in attempt.items():
        if field == "versions" and isinstance(value, dict):
            flat |= {f"version of {name}": str(version) for name, version in sorted(value.items())}
        elif (value is None or isinstance(value, str | int | float)) and field not in VARYING:
            flat[field] = "none" if value is None else str(value)
    return flat


VARYING = {"pid", "job", "slurm_job", "started", "time", "attempt", "command", "cwd"}


def _seeds(seeds: tuple[int, ...]) -> str:
    return f"seed {seeds[0]}" if len(seeds) == 1 else "seeds " + ", ".join(map(str, seeds))
