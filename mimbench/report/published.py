"""Numbers that papers and repositories report, shown in a column of their own beside ours."""

from __future__ import annotations

import csv
import functools
import importlib.resources
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mimbench.errors import UserError, check_known, nearest
from mimbench.report.collect import Grid
from mimbench.report.format import DASH

SHORT = {"finetune": "FT", "linear_probe": "LP", "knn": "kNN"}
HEADS = {"segmentation_setr_pup": "SETR-PUP", "segmentation_upernet": "UPerNet"}
Published = dict[str, str]  # one line of published.csv


def published_rows() -> tuple[Published, ...]:
    return _lines("published.csv")


def cost_claims() -> tuple[Published, ...]:
    """What papers say that pre-training costs."""
    return _lines("costs.csv")


@functools.cache
def _lines(file: str) -> tuple[Published, ...]:
    text = importlib.resources.files("mimbench.paper").joinpath(file).read_text(encoding="utf-8")
    return tuple(csv.DictReader(text.splitlines()))


def was_read_there(row: Published) -> bool:
    """Read in the source that it names. Others, derived or second-hand, are listed and stand beside no row of ours."""
    return row["notes"].startswith("read in ")


def protocol_of(evaluation: str) -> str | None:
    """Our protocol for a published evaluation, or None if there is no counterpart."""
    if evaluation in SHORT:
        return evaluation
    return "segmentation" if evaluation.startswith("segmentation_") else None


def lookup(selection: dict[str, Any], place: str) -> dict[str, Published]:
    """The published numbers by protocol. `selection`: column = value, or column = list of allowed values."""
    rows = [row for row in published_rows() if protocol_of(row["eval"]) and was_read_there(row)]
    allowed = {}
    for column, wanted in selection.items():
        check_known(f"{place}.{column}", "column", column, rows[0])
        allowed[column] = {str(value) for value in (wanted if isinstance(wanted, list) else [wanted])}
        known = {row[column] for row in rows}
        for value in sorted(allowed[column] - known):
            hint = nearest(value, known) or f" Known: {', '.join(sorted(known - {''}))}."
            raise UserError(f"{place}.{column}: no published number has '{value}'.{hint}")
    matching = [row for row in rows if all(row[column] in values for column, values in allowed.items())]
    if not matching:
        partial = [row for row in rows if any(row[column] in values for column, values in allowed.items())]
        raise UserError(f"{place}: no published number matches {selection}. Near it: {_candidates(partial)}")
    found: dict[str, list[Published]] = {}
    for row in matching:
        found.setdefault(str(protocol_of(row["eval"])), []).append(row)
    for protocol, candidates in found.items():
        if len(candidates) > 1:
            raise UserError(
                f"{place}: {len(candidates)} published numbers match for {protocol}; "
                f"add a column that distinguishes them: {_candidates(candidates)}"
            )
    return {protocol: candidates[0] for protocol, candidates in found.items()}


def _candidates(rows: list[Published]) -> str:
    """A few candidates, by the columns in which they differ."""
    columns = [c for c in rows[0] if len({row[c] for row in rows}) > 1 and c not in ("value", "notes")] if rows else []
    lines = ["{" + ", ".join(f"{c}: {row[c]!r}" for c in columns) + "}" for row in rows[:8]]
    return "; ".join(lines) + (f"; and {len(rows) - 8} more." if len(rows) > 8 else ".")


@dataclass(frozen=True)
class PaperColumn:
    heading: str
    cells: dict[str, str]  # by row
    sources: list[str]  # the cells refer to them by number, from 1
    numbers: dict[tuple[str, str], Published]  # by row and protocol


def paper_column(grid: Grid) -> PaperColumn | None:
    """The published numbers of all rows, each with its source; None if no row has any."""
    numbers: dict[tuple[str, str], Published] = {}
    for row in grid.rows:
        if row.paper:
            found = lookup(row.paper, f"{grid.name}: row {row.name}: paper")
            numbers |= {(row.name, c.protocol): found[c.protocol] for c in grid.columns if c.protocol in found}
    if not numbers:
        return None
    setting = Counter((p["backbone"], p["pretrain_data"]) for p in numbers.values()).most_common(1)[0][0]
    protocols = [c.protocol for c in grid.columns if any(protocol == c.protocol for _, protocol in numbers)]
    heading = f"paper ({', '.join(filter(None, setting))}): {' / '.join(_short(p, numbers) for p in protocols)}"
    cells: dict[str, str] = {}
    sources: dict[str, int] = {}  # numbered from 1, in the order in which the cells refer to them
    for row in grid.rows:
        mine = {protocol: numbers[row.name, protocol] for protocol in protocols if (row.name, protocol) in numbers}
        refs = sorted(sources.setdefault(source, len(sources) + 1) for source in _sources(mine.values(), setting))
        values = " / ".join(mine[protocol]["value"] if protocol in mine else DASH for protocol in protocols)
        cells[row.name] = f"{values} [{', '.join(map(str, refs))}]" if mine else DASH
    return PaperColumn(heading, cells, list(sources), numbers)


def _short(protocol: str, numbers: dict[tuple[str, str], Published]) -> str:
    datasets = {p["dataset"] for (_, own), p in numbers.items() if own == protocol}
    dataset = datasets.pop() if len(datasets) == 1 else "several data sets"
    if protocol == "segmentation":
        return dataset
    return SHORT[protocol] if dataset == "ImageNet-1K" else f"{SHORT[protocol]} {dataset}"


def _sources(published: Iterable[Published], setting: tuple[str, str]) -> list[str]:
    """One line per table of a source, with what differs from the column's heading."""
    found: dict[str, list[str]] = {}
    for fields in published:
        details = found.setdefault(f"{fields['source']}, {fields['table']}", [])
        if (fields["backbone"], fields["pretrain_data"]) != setting:
            details.append(f"{fields['backbone']}, pre-training data: {fields['pretrain_data'] or 'not stated'}")
        if fields["eval"].startswith("segmentation_"):
            head = HEADS.get(fields["eval"], fields["eval"].removeprefix("segmentation_").replace("_", " "))
            details.append(f"segmentation head {head}")
    return ["; ".join([table, *dict.fromkeys(details)]) for table, details in found.items()]
