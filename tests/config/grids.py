"""A small grid to change."""

from __future__ import annotations

import copy

import pytest
import yaml

from mimbench.config.grid import load_grid
from mimbench.errors import UserError
from mimbench.plan.graph import make_plan

GRID = {
    "name": "mine", "base": "beit", "scale": "smoke", "seeds": 1, "protocols": ["knn"],
    "rows": [{"name": "beit"}, {"name": "random", "masker": {"type": "random", "ratio": 0.5}}],
}  # fmt: skip


def written(tmp_path, **changes):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**copy.deepcopy(GRID), **changes}))
    return str(path)


def error_of(tmp_path, *sets, **changes) -> str:
    with pytest.raises(UserError) as caught:
        make_plan(load_grid(written(tmp_path, **changes), sets=sets))
    return str(caught.value)
