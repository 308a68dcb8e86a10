"""The objective of a shipped recipe at scale `smoke`, and a batch for it."""

from __future__ import annotations

import torch
import yaml

from mimbench.config.grid import load_grid
from mimbench.plan.graph import make_plan
from mimbench.pretrain.fit import to_device
from mimbench.pretrain.step import make_pretraining
from mimbench.pretrain.terms import views_of
from mimbench.runtime import Runtime


def objective_of(folder, base, **changes):
    """Of a row that names this recipe and changes it; and the recipe as its run's spec has it."""
    grid = {"name": "one", "title": "One row", "base": "beit", "scale": "smoke", "seeds": 1, "protocols": ["knn"],
            "rows": [{"name": "only", "base": base, **changes}]}  # fmt: skip
    (folder / "one.yaml").write_text(yaml.safe_dump(grid))
    plan = make_plan(load_grid(str(folder / "one.yaml")))
    recipe = plan.runs[plan.rows["only"][0]["pretrain"]].spec["recipe"]
    return make_pretraining(recipe, {}, seed=0, device=torch.device("cpu")), recipe


def micro_of(objective, recipe, batch=8, step=0):
    """Random images of each view's size, as the step would get them."""
    rng, sides = torch.Generator().manual_seed(1), {"image": 32}
    for copy, view in views_of(recipe).items():
        share = recipe["views"][view]["share"] if recipe.get("views") else 1.0
        sides[copy] = round(32 * share)
    draw = lambda side: torch.randint(256, (batch, 3, side, side), generator=rng, dtype=torch.uint8)
    views = {copy: draw(sides[copy]) for copy in views_of(recipe)}
    (micro,) = objective.prepare({"views": views}, step, Runtime())
    return to_device(micro, torch.device("cpu"))
