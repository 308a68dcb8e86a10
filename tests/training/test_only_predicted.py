"""Leaving out what nobody reads: every recipe's loss and gradients with and without."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mimbench.config.grid import load_grid
from mimbench.config.schema import EncoderConfig, from_spec
from mimbench.config.terms import ViewConfig
from mimbench.data.rendering import copies_of, side_of
from mimbench.plan.graph import make_plan
from mimbench.pretrain.flops import untrained
from mimbench.runtime import Runtime

RECIPES = sorted(path.stem for path in (Path(__file__).parents[2] / "configs/recipes").glob("*.yaml"))
READ_ELSEWHERE = {
    "beit2",
    "beit_aggregated",
    "byol",
    "cae",
    "capi",
    "crossmae",
    "dbot",
    "ijepa",
    "mae",
    "milan",
    "mocov3",
    "simclr",
    "vicreg",
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipes_loss_and_gradients_are_the_same_without_what_nobody_reads(name, tmp_path):
    rows = [{"name": name}, *([{"name": "dino", "base": "dino"}] if name != "dino" else [])]  # some learn from it
    grid = {"name": "one", "base": name, "scale": "smoke", "protocols": ["knn"], "rows": rows}
    (tmp_path / "one.yaml").write_text(json.dumps(grid))
    plan = make_plan(load_grid(str(tmp_path / "one.yaml"), seeds=1))
    run = plan.runs[plan.rows[name][0]["pretrain"]]
    recipe, taught_by = run.spec["recipe"], run.spec["parents"].get("teacher")
    other = from_spec(EncoderConfig, plan.runs[taught_by].spec["recipe"]["encoder"]) if taught_by else None
    size, patch = recipe["data"]["size"], recipe["encoder"]["patch"]
    recipe["schedule"]["precision"] = "fp32"
    views = {view: from_spec(ViewConfig, given) for view, given in recipe.get("views", {}).items()}
    random = torch.Generator().manual_seed(0)
    draw = lambda side: torch.rand(4, 3, side, side, generator=random)
    raw = {copy: draw(side_of(view, size, patch)) for copy, (view, _) in copies_of(views).items()}
    batch = {**({"views": raw} if views else {"raw": draw(size)}), "label": torch.zeros(4, dtype=torch.int64)}
    found = []
    for allowed in (True, False):
        objective = untrained(recipe, other, torch.device("cpu"))
        assert objective.encoder.only_predicted == (name not in READ_ELSEWHERE)
        objective.encoder.only_predicted &= allowed
        torch.manual_seed(0)
        loss = objective(objective.prepare(batch, 1, Runtime())[0])
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in objective.parameters() if p.grad is not None)])
    assert len(found[0]) == len(found[1])
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-6 + 1e-5 * float(other.abs().max()))
