"""The picture of the maskers shows what they draw."""

import runpy

import numpy as np
import pytest
from commands import ROOT
from matplotlib.colors import to_rgb

from mimbench import registry
from mimbench.report.colors import FAINT

SCRIPT = runpy.run_path(str(ROOT / "docs" / "maskers.py"))


def test_every_masker_that_ships_is_shown():
    shipped = {path.stem for path in (ROOT / "registries" / "maskers").glob("*.py")} - {"__init__"}
    assert shipped <= {spec["type"] for spec in SCRIPT["shown"]().values()}


@pytest.mark.parametrize(
    "title", ["random", "random, ratio 0.75 (MAE)", "multiblock", "inverse_block, predict 0.077 (CAPI)"]
)
def test_the_light_patches_are_the_visible_ones(title):
    spec = SCRIPT["shown"]()[title]
    light = np.isclose(SCRIPT["drawn"](spec), to_rgb(FAINT)).all(-1)
    assert (light.sum((1, 2)) == light.sum((1, 2))[0]).all()  # these maskers mask as many patches in every image
    if "ratio" in spec:
        assert light[0].sum() == 196 - round(196 * registry.build("masker", spec).ratio)


def test_the_picture_is_small_and_written_by_the_script(tmp_path):
    SCRIPT["main"](tmp_path / "maskers.png")
    assert 5_000 < (tmp_path / "maskers.png").stat().st_size < 60_000
