"""The pages of the documentation: what they say one can type or write, one can."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from conftest import ROOT

from mimbench.config.grid import load_grid
from mimbench.plan.graph import make_plan
from mimbench.testing import check_decoder, check_loss, check_masker, check_tokenizer

PAGES = {path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}


def test_the_site_is_built_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    recipes = (tmp_path / "recipes" / "index.html").read_text(encoding="utf-8")
    assert "Should improve" in recipes
    assert "arXiv:2111.06377" in recipes
    assert "learning_rates" in (tmp_path / "protocols" / "index.html").read_text(encoding="utf-8")


def test_the_parts_that_the_page_on_parts_writes_keep_the_contracts():
    written: dict = {}
    for block in re.findall(r"```python\n(.*?)```", PAGES["parts"], re.S):
        exec(block, written)
    check_masker(written["Checkerboard"]())
    check_loss(written["Huber"]())
    check_tokenizer(written["MeanColor"]())
    check_decoder(written["TwoLayers"]())


@pytest.mark.parametrize(("page", "rows"), [("grids", 6), ("tutorial", 6)])
def test_the_grid_of_a_page_can_be_planned(page, rows, tmp_path):
    (block,) = [block for block in re.findall(r"```yaml\n(.*?)```", PAGES[page], re.S) if "axes" in block]
    (tmp_path / "grid.yaml").write_text(block)
    assert len(make_plan(load_grid(str(tmp_path / "grid.yaml"))).grid.rows) == rows
