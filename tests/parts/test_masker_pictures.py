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
    "title",
    [
        "random",
        "random, ratio 0.75 (MAE)",
        "attention_guided, ratio 0.75 (MILAN)",
        "multiblock",
        "inverse_block, predict 0.077 (CAPI)",
    ],
)
def test_the_light_patches_are_the_visible_ones(title):
    spec = SCRIPT["shown"]()[title]
    light = np.isclose(SCRIPT["drawn"](spec), to_rgb(FAINT)).all(-1)
    assert (light.sum((1, 2)) == light.sum((1, 2))[0]).all()  # these maskers mask as many patches in every image
    if "ratio" in spec:
        assert light[0].sum() == 196 - round(196 * registry.build("masker", spec).ratio)


def test_what_attention_guides_is_visible_where_the_attention_is():
    light = np.isclose(SCRIPT["drawn"](SCRIPT["shown"]()["attention_guided, ratio 0.75 (MILAN)"]), to_rgb(FAINT)).all(
        -1
    )
    assert light[:, 4:10, 4:10].mean() > 2 * light.mean()


def test_ibots_masks_skip_images_and_differ_in_size():
    light = np.isclose(SCRIPT["drawn"](SCRIPT["shown"]()["blockwise, range, skip 0.5 (iBOT)"]), to_rgb(FAINT)).all(-1)
    counts = light.sum((1, 2))
    assert (counts == 196).any()
    assert len(set(counts)) > 2


def test_the_picture_is_small_and_written_by_the_script(tmp_path):
    SCRIPT["main"](tmp_path / "maskers.png")
    assert 5_000 < (tmp_path / "maskers.png").stat().st_size < 60_000
