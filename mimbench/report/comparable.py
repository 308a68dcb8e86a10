"""Which numbers may stand in one column: those of one metric, one protocol and one data set."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from mimbench.errors import UserError
from mimbench.report.collect import Column, Grid
from mimbench.store.files import canonical


def check_comparable(grid: Grid) -> None:
    """Refuse a column whose runs differ in metric, protocol or data, naming the fields, their values and examples."""
    for column in grid.columns:
        records = [record for row in grid.rows for record in grid.runs(row, column.protocol).values()]
        results = {record.name: record.result for record in records if record.result is not None}
        if differences := _differences(results, column):
            raise UserError(
                f"{grid.name}.{grid.scale}: the numbers of column '{column.protocol}' are not comparable. "
                f"{' '.join(differences)} Run the grid again to measure all rows with the same protocol."
            )


def _differences(results: dict[str, dict[str, Any]], column: Column) -> list[str]:
    """One sentence for each field in which the runs differ from one another or from what the grid asks for."""
    asked = {"metric": canonical(column.metric), "protocol.fingerprint": canonical(column.fingerprint)}
    compared = {name: _flatten({"metric": result["metric"], "protocol": result["protocol"],
                                "data": {"fingerprint": result["data"]["fingerprint"]}})
                for name, result in results.items()}  # fmt: skip
    differences = []
    for field in sorted({field for fields in compared.values() for field in fields}):
        runs: dict[str, list[str]] = defaultdict(list)  # by value
        for name, fields in sorted(compared.items()):
            runs[fields.get(field, "absent")].append(name)
        if len(runs) > 1 or (field in asked and asked[field] not in runs):
            wanted = f"the grid asks for {asked[field]}; found " if field in asked else ""
            found = " against ".join(f"{value} ({_examples(names)})" for value, names in sorted(runs.items()))
            differences.append(f"{field}: {wanted}{found}.")
    return differences


def _flatten(fields: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Dotted path -> value as JSON."""
    flat: dict[str, str] = {}
    for key, value in fields.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = canonical(value)
    return flat


def _examples(names: list[str]) -> str:
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    return ", ".join(names[:2]) + more
