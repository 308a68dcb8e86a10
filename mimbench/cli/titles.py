"""Runs by the names that people know: `BEiT, seed 0: fine-tuning`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mimbench.inert import all_for_terminal

WORDS = {"pretrain": "pre-training", "finetune": "fine-tuning", "finetuned": "fine-tuned encoder", "knn": "k-NN"}


def titles(records: Iterable[dict[str, Any]]) -> dict[str, str]:
    """Of the runs that these records of grids name. A run that rows share is named after the first of them."""
    uses: dict[str, list[tuple[str, str, str]]] = {}
    for record in records:
        for row in all_for_terminal(record["rows"]):
            for seed, runs in row["runs"].items():
                for kind, run in runs.items():
                    uses.setdefault(run, []).append((row.get("label", row["name"]), seed, kind))
    return {run: _title(found) for run, found in uses.items()}


def _title(uses: list[tuple[str, str, str]]) -> str:
    label, seed, kind = uses[0]
    others = len({row for row, *_ in uses}) - 1
    more = f" and {others} more" if others else ""
    return f"{label}{more}, seed {seed}: {WORDS.get(kind, kind.replace('_', ' '))}"


def fitted(title: str, width: int) -> str:
    """Shortened within the row's name: seed and kind distinguish what runs."""
    name, comma, rest = title.rpartition(", seed ")
    room = width - len(comma + rest) - 1
    return title if len(title) <= width or room < 1 else f"{name[:room].rstrip()}…{comma}{rest}"
