"""Which numbers may stand in one column: those measured by the same ruler, on the same data."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from mimbench.errors import UserError
from mimbench.report.collect import Column, Grid
from mimbench.store.files import canonical


def check_comparable(grid: Grid) -> None:
    """Refuse a column whose runs differ in metric, protocol or data, naming the field and the runs."""
    for column in grid.columns:
        results = {
            record.name: record.result
            for row in grid.rows
            for record in grid.runs(row, column.protocol).values()
            if record.result is not None
        }
        differences = _differences(results, column)
        if differences:
            raise UserError(
                f"{grid.name}.{grid.scale}: the numbers of column '{column.protocol}' may not stand side by side. "
                + " ".join(differences)
                + " Run the grid again, so that all of them are measured alike."
            )


def _differences(results: dict[str, dict[str, Any]], column: Column) -> list[str]:
    fields = {
        "metric": ("the grid asks for", column.metric),
        "protocol.version": ("", None),
        "protocol.fingerprint": ("the grid asks for", column.fingerprint),
        "data.fingerprint": ("", None),
    }
    found = []
    for field, (asks, wanted) in fields.items():
        groups: dict[str, list[str]] = defaultdict(list)
        for name, result in results.items():
            groups[canonical(_at(result, field))].append(name)
        if wanted is not None and groups and set(groups) != {canonical(wanted)}:
            found.append(f"{field}: {asks} {canonical(wanted)}; {_listed(groups)}.")
        elif len(groups) > 1:
            found.append(f"{field}: {_listed(groups)}.")
    if found:
        found += _settings(results)
    return found


def _settings(results: dict[str, dict[str, Any]]) -> list[str]:
    """The protocol settings in which the runs differ, by dotted path."""
    flat = {name: _flatten((result.get("protocol") or {}).get("settings")) for name, result in results.items()}
    found = []
    for key in sorted({key for settings in flat.values() for key in settings}):
        groups: dict[str, list[str]] = defaultdict(list)
        for name, settings in flat.items():
            groups[settings.get(key, "absent")].append(name)
        if len(groups) > 1:
            found.append(f"Setting {key}: {_listed(groups)}.")
    return found


def _at(value: Any, path: str) -> Any:
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _flatten(value: Any, prefix: str = "") -> dict[str, str]:
    if not isinstance(value, dict):
        return {prefix: canonical(value)} if prefix else {}
    flat: dict[str, str] = {}
    for key, inner in value.items():
        flat |= _flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _listed(groups: dict[str, list[str]]) -> str:
    """`20 (a, b) against 30 (c)`; long lists of runs are cut."""
    parts = []
    for value, names in sorted(groups.items()):
        shown = ", ".join(sorted(names)[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        parts.append(f"{value} ({shown})")
    return " against ".join(parts)
