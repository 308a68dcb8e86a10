import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mimbench.config.parts import resolve
from mimbench.errors import UserError
from mimbench.registries.maskers.blockwise import Blockwise
from mimbench.registries.maskers.none import NoMask
from mimbench.registries.maskers.random import Random

GRIDS = st.tuples(st.integers(2, 20), st.integers(2, 20))
SEEDS = st.integers(0, 2**31)
RATIOS = st.floats(0.05, 0.9)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@settings(max_examples=60)
@given(GRIDS, SEEDS, RATIOS, st.integers(1, 20), st.floats(0.1, 1.0))
def test_blockwise_never_exceeds_its_count(grid, seed, ratio, min_block, aspect):
    mask = Blockwise(ratio=ratio, min_block=min_block, aspect=aspect)(9, grid, rng(seed))
    assert mask.shape == (9, grid[0] * grid[1])
    assert mask.dtype == torch.bool
    assert mask.sum(1).max() <= round(ratio * (grid[0] * grid[1]))


@settings(max_examples=60)
@given(GRIDS, SEEDS, RATIOS)
def test_exact_blockwise_reaches_its_count_and_keeps_the_blocks(grid, seed, ratio):
    blocks = Blockwise(ratio=ratio)(9, grid, rng(seed))
    topped_up = Blockwise(ratio=ratio, exact=True)(9, grid, rng(seed))
    assert (topped_up.sum(1) == round(ratio * (grid[0] * grid[1]))).all()
    assert (topped_up | ~blocks).all()


@settings(max_examples=60)
@given(GRIDS, SEEDS, RATIOS)
def test_random_masks_exactly_its_count(grid, seed, ratio):
    mask = Random(ratio=ratio)(9, grid, rng(seed))
    assert (mask.sum(1) == round(ratio * (grid[0] * grid[1]))).all()


@settings(max_examples=30)
@given(st.sampled_from([Blockwise(), Blockwise(exact=True), Random(), NoMask()]), GRIDS, SEEDS)
def test_masks_follow_from_the_generator_alone(masker, grid, seed):
    one, other = rng(seed), rng(seed)
    for batch in (5, 3):  # and leave it at the same place
        torch.rand(1)
        assert torch.equal(masker(batch, grid, one), masker(batch, grid, other))


@pytest.mark.parametrize("masker", [Blockwise(), Random(cell=2)])
def test_draws_differ_between_images_and_between_calls(masker):
    generator = rng()
    first, second = masker(64, (8, 8), generator), masker(64, (8, 8), generator)
    assert len(first.unique(dim=0)) > 60
    assert not torch.equal(first, second)


def test_random_positions_are_masked_equally_often():
    share = Random(ratio=0.25)(40_000, (6, 5), rng()).float().mean(0)
    assert share.numpy() == pytest.approx(np.full(30, 8 / 30), abs=0.01)  # 0.25 of 30 rounds to 8


def test_simmims_cells_are_masked_whole_and_are_thirty_of_forty_nine():
    mask = Random(ratio=0.6, cell=2)(8, (14, 14), rng())
    cells = mask.view(8, 7, 2, 7, 2)
    assert (cells == cells[:, :, :1, :, :1]).all()
    assert (cells[:, :, 0, :, 0].sum((1, 2)) == 30).all()


def test_beits_count_is_seventy_five_under_both_maskers():
    assert (Random(count=75)(64, (14, 14), rng()).sum(1) == 75).all()
    assert Blockwise(count=75)(64, (14, 14), rng()).sum(1).max() == 75


def test_a_whole_grid_can_be_masked_at_random():
    assert Random(count=16)(3, (4, 4), rng()).all()


def test_none_masks_nothing():
    assert not NoMask()(3, (4, 4), rng()).any()


def test_blocks_on_a_grid_of_more_than_sixty_four_columns():
    mask = Blockwise(count=1500)(500, (20, 130), rng())
    share = mask.view(500, 20, 130).float().mean((0, 1))
    assert mask.sum(1).max() <= 1500
    torch.testing.assert_close(share, share.flip(0), atol=0.1, rtol=0)  # as often left as right
    assert share[64] > share[0] > 0


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({"type": "blockwise", "ratio": 0}, "ratio must lie between 0 and 1, not 0.0"),
        ({"type": "blockwise", "ratio": 0.5, "count": 75}, "give ratio or count, not both"),
        ({"type": "blockwise", "count": 0}, "count must be at least 1, not 0"),
        ({"type": "blockwise", "min_block": 0}, "min_block must be at least 1 patch, not 0"),
        ({"type": "blockwise", "aspect": 1.5}, r"in \(0, 1\], not 1.5"),
        ({"type": "random", "ratio": 1}, "ratio must lie between 0 and 1, not 1.0"),
        ({"type": "random", "ratio": 0.75, "count": 75}, "give ratio or count, not both"),
        ({"type": "random", "count": -1}, "count must be at least 1, not -1"),
        ({"type": "random", "cell": 0}, "cell must be at least 1 patch, not 0"),
        ({"type": "random", "count": 75, "cell": 2}, "whole cells of 2 x 2 patches, and 75 is not"),
    ],
)
def test_bad_arguments_are_refused_while_planning(spec, sentence):
    with pytest.raises(UserError, match=sentence) as error:
        resolve("masker", spec, "rows.1.masker")
    assert str(error.value).startswith("rows.1.masker")


@pytest.mark.parametrize(
    ("masker", "sentence"),
    [
        (Blockwise(count=65), "65 is more than the 64 patches of a grid of 8 x 8"),
        (Random(count=65), "65 is more than the 64 patches"),
        (Random(cell=3), "cells of 3 x 3 patches do not tile a grid of 8 x 8"),
    ],
)
def test_a_grid_that_does_not_fit_is_refused(masker, sentence):
    with pytest.raises(ValueError, match=sentence):
        masker(1, (8, 8), rng())


def test_the_default_ratio_written_out_is_the_same_spec():
    for name in ("blockwise", "random"):
        assert resolve("masker", name, "") == resolve("masker", {"type": name, "ratio": 0.4}, "")
