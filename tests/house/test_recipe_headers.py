"""The header of each recipe: its source, what differs, what to expect, what a step costs against BEiT's. To write the costs:

python tests/house/test_recipe_headers.py
"""

from __future__ import annotations

import functools
import json
import re
import tempfile
from pathlib import Path

import pytest

from mimbench.config.grid import load_grid
from mimbench.plan.graph import make_plan
from mimbench.pretrain.flops import flops_per_image

RECIPES = sorted((Path(__file__).parents[2] / "configs" / "recipes").glob("*.yaml"))
LINE = "# Cost: {} of BEiT's step at tiny, in FLOPs.\n"


@functools.cache
def flops() -> dict[str, float]:
    """Per image, of each recipe at tiny; each is a row, so that it may name another as its teacher."""
    rows = [{"name": path.stem, "base": path.stem} for path in RECIPES]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipes.yaml"
        grid = {"name": "recipes", "base": "beit", "scale": "tiny", "protocols": ["knn"], "rows": rows}
        path.write_text(json.dumps(grid))
        plan = make_plan(load_grid(str(path), seeds=1))
    runs = {row: plan.runs[seeds[0]["pretrain"]] for row, seeds in plan.rows.items()}
    return {row: flops_per_image(run, plan) for row, run in runs.items()}


def cost(path: Path) -> str:
    return LINE.format(f"{flops()[path.stem] / flops()['beit']:.2g}")


@pytest.fixture(scope="module")
def counted():
    """So that one process runs these tests: counting takes longer than they do."""
    return flops()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_header_of_a_recipe_says_what_its_step_costs(path, counted):
    assert cost(path) in path.read_text(encoding="utf-8"), "write it with python tests/house/test_recipe_headers.py"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_header_of_a_recipe_says_where_it_comes_from_and_what_to_expect(path):
    header = " ".join(re.match(r"(# .*\n)*", path.read_text(encoding="utf-8"))[0].replace("\n#", "").split())
    source = r"arXiv:\d{4}\.\d{5}|Chen et al\. 2020"
    code = r"fficial code: \w|as \w+/\w+|default \(\w+/\w+|no official code|its code was not found"
    for words in (source, code, r"Differs from ", r"Expected[^:]*: ", r"Should improve: \w+"):
        assert re.search(words, header), words


if __name__ == "__main__":
    for path in RECIPES:
        text = re.sub(r"(?m)^# Cost: .*\n", "", path.read_text(encoding="utf-8"))
        header = re.match(r"(#.*\n)*", text)
        assert header is not None
        path.write_text(header.group() + cost(path) + text[header.end() :], encoding="utf-8")
