"""One record of a grid from two: the rows and seeds of both, if they mean the same."""

from __future__ import annotations

import copy
from typing import Any

from mimbench.errors import UserError

SAME = ("columns", "nested", "base", "primary")  # in both records, or their numbers do not belong into one table
Placed = tuple[str, dict[str, Any]]  # where a record lies, and its content


def merge_grids(first: Placed, second: Placed) -> dict[str, Any]:
    """The first one's words and rows, with what the second one adds."""
    (place, old), (other, new) = first, second
    merged = copy.deepcopy(old)
    merged.pop("left_out", None)  # the other one may have what --protocols left out of this one
    for key in SAME:
        if old.get(key) != new.get(key):
            raise _differ(first, second, f"they differ in `{key}`")
    rows = {row["name"]: row for row in merged["rows"]}
    for row in new["rows"]:
        own = rows.get(row["name"])
        if own is None:
            merged["rows"].append(copy.deepcopy(row))
            continue
        if own.get("key") != row.get("key"):
            raise _differ(first, second, f"row '{row['name']}' computes something else")
        for seed, runs in row["runs"].items():
            if (known := own["runs"].setdefault(seed, runs)) != runs:
                kind = next(kind for kind in {**known, **runs} if known.get(kind) != runs.get(kind))
                raise _differ(first, second, f"row '{row['name']}', seed {seed}: {kind} is {known.get(kind)} in {place}, "
                                             f"{runs.get(kind)} in {other}")  # fmt: skip
        if "flops" in row:
            own.setdefault("flops", row["flops"])
    merged["seeds"] = sorted({*old["seeds"], *new["seeds"]})
    for words in ("note", "searched"):
        if new.get(words) and new[words] not in merged.get(words, ""):
            merged[words] = " ".join(filter(None, (merged.get(words), new[words])))
    return merged


def _differ(first: Placed, second: Placed, how: str) -> UserError:
    name = f"{first[1]['name']}.{first[1]['scale']}"
    return UserError(f"Nothing was merged: the grid {name} of {first[0]} is not that of {second[0]}: {how}. "
                     "`mimbench report` can show both folders without merging them.")  # fmt: skip
