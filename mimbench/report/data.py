"""Results as data: one line per row, seed, protocol and metric."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimbench.errors import UserError
from mimbench.report.analysis import Analysis
from mimbench.report.collect import Column, Grid, Row, RunRecord, read_grid, read_published_grid
from mimbench.report.table import frame
from mimbench.store.published import is_of_another_version, is_published, published_folders
from mimbench.store.results import Store

if TYPE_CHECKING:
    import pandas as pd

IDENTITY = [
    "source",
    "grid",
    "scale",
    "row",
    "label",
    "seed",
    "protocol",
    "metric",
    "unit",
    "in_table",
    "value",
    "state",
]
PROVENANCE = ["run", "pretrain_run", "protocol_fingerprint", "data", "data_fingerprint", "mimbench", "commit", "host"]
COSTS = ["seconds", "images", "peak_memory_bytes", "energy_joules"]
COLUMNS = [*IDENTITY, *PROVENANCE, *COSTS, *(f"pretrain_{cost}" for cost in COSTS), "training_flops"]


def load_results(path: str | Path) -> pd.DataFrame:
    """One line per row, seed, protocol and metric of a results folder, a published copy, or all copies below a folder.

    `in_table`: the metric of the protocol's column in the report. A run that is not done has a line too, without a value.
    `chosen_*`: hyper-parameters that an evaluation chose on
    held-out images. `pretrain_*`: the run behind the row's encoder. Copies of other versions below a folder are left out.
    """
    import pandas as pd

    lines = [line for grid, source in grids_at(Path(path)) for line in _lines(grid, source)]
    chosen = sorted({key for line in lines for key in line} - set(COLUMNS))
    found = pd.DataFrame(lines, columns=[*COLUMNS, *chosen])
    found[chosen] = found[chosen].convert_dtypes()  # a layer is a whole number, or missing
    whole = {name: "Int64" for name in COLUMNS if name.endswith(("images", "peak_memory_bytes"))}
    real = {name: "float64" for name in COLUMNS if name.endswith(("value", "seconds", "joules", "flops"))}
    return found.astype({"seed": "int64", **whole, **real})


def grids_at(path: Path) -> Iterator[tuple[Grid, str]]:
    """Every grid of a folder, each with where it is from."""
    if is_published(path):
        yield read_published_grid(path), str(path)
        return
    store = Store(path)
    records = list(store.grids())
    for _, record in records:
        if isinstance(record, UserError):
            raise record
        yield read_grid(store, record["name"], record["scale"]), str(path)
    copies = [] if records else [copy for copy in published_folders(path) if not is_of_another_version(copy)]
    for copy in copies:
        yield read_published_grid(copy), str(copy)
    if not records and not copies:
        raise UserError(
            f"{path}: no results: expected a results folder (with grids/ and runs/), a published copy (with records.jsonl), "
            "or a folder of such copies."
        )


def _lines(grid: Grid, source: str) -> Iterator[dict[str, Any]]:
    for row in grid.rows:
        for column in grid.columns:
            for seed, record in grid.runs(row, column.protocol).items():
                same = {"source": source, "grid": grid.name, "scale": grid.scale, "row": row.name, "label": row.label, "seed": seed,
                        **_provenance(column, record), **_costs(record), **_of_training(grid, row, seed)}  # fmt: skip
                metrics = record.result["metrics"] if record.result else {column.metric: None}
                for metric, value in metrics.items():
                    in_table = metric == column.metric
                    yield {**same, "metric": metric, "unit": column.unit if in_table else None, "in_table": in_table,
                           "value": value, "state": record.state}  # fmt: skip


def _provenance(column: Column, record: RunRecord) -> dict[str, Any]:
    attempt = record.attempts[max(record.attempts)] if record.attempts else {}
    result = record.result or {}
    data, chosen = result.get("data", {}), result.get("values", {}).get("chosen", {})
    return {
        "protocol": column.protocol, "protocol_fingerprint": column.fingerprint, "run": record.name,
        "data": data.get("name"), "data_fingerprint": data.get("fingerprint"), "host": attempt.get("host"),
        "mimbench": attempt.get("versions", {}).get("mimbench"), "commit": (attempt.get("git") or {}).get("sha"),
        **{f"chosen_{key}": value for key, value in chosen.items()},
    }  # fmt: skip


def _costs(record: RunRecord) -> dict[str, Any]:
    return {key: record.cost.get(key) for key in COSTS} if record.cost else {}


def _of_training(grid: Grid, row: Row, seed: int) -> dict[str, Any]:
    """The run behind the encoder, if it was trained here, and the FLOPs of all that was trained for it."""
    flops = {"training_flops": row.flops["total"]} if row.flops else {}
    name = row.runs.get(seed, {}).get("pretrain")
    if name is None:
        return flops
    return {**flops, "pretrain_run": name, **{f"pretrain_{k}": v for k, v in _costs(grid.records[name]).items()}}


def tables_as_json(analyses: Iterable[Analysis]) -> str:
    """The statistics of every table, by row and protocol."""
    return json.dumps([_table(analysis) for analysis in analyses], indent=2)


def _table(analysis: Analysis) -> dict[str, Any]:
    grid = analysis.grid
    rows = json.loads(frame(analysis).to_json(orient="records", double_precision=15))
    return {"grid": grid.name, "scale": grid.scale, "title": grid.title, "seeds": grid.seeds, "table": rows}
