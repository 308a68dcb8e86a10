"""What each evaluation chose on held-out images: learning rate, layer, pooling, number of neighbors."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from mimbench.report.collect import Grid
from mimbench.report.format import count

CHOSEN = ["Row", "Evaluation", "Chosen on held-out images"]


def choices(grid: Grid) -> list[list[str]]:
    """One line per row and evaluation, under CHOSEN; seeds that chose the same are counted together."""
    lines = []
    for row in grid.rows:
        for column in grid.columns:
            seeds: dict[str, int] = defaultdict(int)
            for record in grid.runs(row, column.protocol).values():
                if record.result and (text := chosen_text(record.result)):
                    seeds[text] += 1
            found = sorted(seeds.items(), key=lambda item: -item[1])
            if found:
                texts = "; ".join(text + (f" ({count(n, 'seed')})" if len(found) > 1 else "") for text, n in found)
                lines.append([row.label, column.label, texts])
    return lines


def chosen_text(result: dict[str, Any]) -> str:
    """`layer 3, lr 0.1, pooling mean`, with the pooling that it took from a parent."""
    chosen = dict(result["values"].get("chosen", {}))
    for parent in result.get("parents", {}).values():
        if "pooling" in parent:
            chosen["pooling"] = parent["pooling"]
    return ", ".join(f"{key} {_text(value)}" for key, value in sorted(chosen.items()))


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).replace("_", " ")
