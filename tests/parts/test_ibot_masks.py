"""Block-wise masks with a range of shares, against those that iBOT's own loader draws (see ibot_figures.py)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from blockwise_figures import figures

from mimbench import registry
from mimbench.config.parts import resolve
from mimbench.errors import UserError

OFFICIAL = json.loads((Path(__file__).parents[1] / "golden" / "ibot_masks.json").read_text())
DRAWS = 20_000


def masker(**arguments):
    return registry.build("masker", {"type": "blockwise", "range": (0.1, 0.5), "skip": 0.5, **arguments})


@pytest.mark.parametrize("official", OFFICIAL, ids=lambda case: f"{case['side']} x {case['side']}")
def test_means_and_deviations_of_the_masks_agree_within_their_errors(official):
    side = official["side"]
    masks = masker(min_block=(side // 3) ** 2)(DRAWS, (side, side), torch.Generator().manual_seed(0))
    ours = figures(masks.view(DRAWS, side, side).numpy(), 0)
    for name, (mean, deviation) in official["mean_and_deviation"].items():
        our_mean, our_deviation = ours["mean_and_deviation"][name]
        error = np.hypot(deviation / official["draws"] ** 0.5, our_deviation / DRAWS**0.5)
        assert abs(our_mean - mean) < 4 * error + 1e-5, name
        assert our_deviation == pytest.approx(deviation, rel=0.05, abs=0.02), name


def test_without_skip_every_image_is_masked_up_to_its_own_share():
    shares = masker(skip=0.0, min_block=1)(500, (10, 10), torch.Generator().manual_seed(0)).float().mean(1)
    assert shares.max() <= 0.5
    assert shares.std() == pytest.approx(0.4 / 12**0.5, rel=0.15)  # of a uniform share
    assert not masker().constant_count


def test_skip_alone_leaves_some_images_whole_and_masks_the_others_as_before():
    masks = masker(range=None, ratio=0.4, min_block=1)(500, (10, 10), torch.Generator().manual_seed(0)).sum(1)
    assert set(masks.tolist()) >= {0, 40}
    assert (masks == 0).float().mean() == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"range": [0.5, 0.1]}, "the smallest share, then the largest"),
        ({"range": [0.1, 0.5], "ratio": 0.6}, "give range, or ratio or count, not both"),
        ({"range": [0.1, 0.5], "count": 20}, "give range, or ratio or count, not both"),
        ({"range": [0.1, 0.5], "exact": True}, "range and skip vary it"),
        ({"skip": 0.5, "exact": True}, "range and skip vary it"),
        ({"skip": 1.0}, r"skip is a chance in \[0, 1\), not 1.0"),
    ],
)
def test_what_contradicts_itself_is_refused_while_planning(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        resolve("masker", {"type": "blockwise", **arguments}, "row")
