"""Our block-wise masks against figures of BEiT's own generator (see blockwise_figures.py for their origin)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from blockwise_figures import figures

from mimbench import registry

OFFICIAL = json.loads((Path(__file__).parents[1] / "golden" / "blockwise_official.json").read_text())["cases"]
DRAWS = 20_000


@pytest.fixture(scope="module", params=OFFICIAL, ids=lambda case: f"{case['size']}-{case['count']}")
def pair(request):
    case = request.param
    masker = registry.build("masker", {"type": "blockwise", "count": case["count"], "min_block": case["min_block"]})
    masks = masker(DRAWS, tuple(case["size"]), torch.Generator().manual_seed(0))
    return figures(masks.view(DRAWS, *case["size"]).numpy(), case["count"]), case


def test_means_agree_within_their_errors(pair):
    ours, official = pair
    for name, (mean, deviation) in official["mean_and_deviation"].items():
        our_mean, our_deviation = ours["mean_and_deviation"][name]
        error = np.hypot(deviation / official["draws"] ** 0.5, our_deviation / DRAWS**0.5)
        assert abs(our_mean - mean) < 4 * error + 1e-5, name


def test_deviations_agree(pair):
    ours, official = pair
    for name, (_, deviation) in official["mean_and_deviation"].items():
        assert ours["mean_and_deviation"][name][1] == pytest.approx(deviation, rel=0.05, abs=0.02), name


def test_quantiles_of_the_count_agree(pair):
    ours, official = pair
    for level, value in official["quantiles"].items():
        assert abs(ours["quantiles"][level] - value) <= 1, level
    assert abs(ours["minimum"] - official["minimum"]) <= 5


def test_every_position_is_masked_as_often(pair):
    ours, official = pair
    ours, theirs = np.array(ours["position_map"]), np.array(official["position_map"])
    error = np.sqrt(theirs * (1 - theirs) * (1 / DRAWS + 1 / official["draws"]))
    z = (ours - theirs) / error
    assert np.abs(z).max() < 4.5
    assert (z**2).mean() < 1.5
