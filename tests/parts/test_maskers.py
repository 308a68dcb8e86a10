from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mimbench.config.parts import resolve
from mimbench.errors import UserError
from mimbench.registries.maskers.blockwise import Blockwise
from mimbench.registries.maskers.inverse_block import InverseBlock
from mimbench.registries.maskers.multiblock import Multiblock
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


@settings(max_examples=60)
@given(GRIDS, SEEDS, RATIOS, st.floats(0.1, 1.0))
@example((2, 20), 0, 0.2, 0.5)  # the aspect must give way to the grid
def test_inverse_block_leaves_one_rectangle_visible_around_the_borders(grid, seed, ratio, aspect):
    rows, columns = grid
    mask = InverseBlock(ratio=ratio, aspect=aspect)(9, grid, rng(seed))
    visible = max(1, rows * columns - round(ratio * rows * columns))
    assert ((~mask).sum(1) == visible).all()
    for seen in ~mask.view(9, rows, columns):
        height, width = int(seen.any(1).sum()), int(seen.any(0).sum())
        assert (height - 1) * width < visible <= height * width  # all rows but the last are full
        for line in (seen.any(1), seen.any(0)):
            assert (line & ~line.roll(1)).sum() <= 1  # one run of rows and columns, on a torus


@given(GRIDS, SEEDS)
def test_the_inverse_block_of_an_image_does_not_depend_on_the_rest_of_the_batch(grid, seed):
    uniform = torch.rand(3, 5, 1, generator=rng(seed))
    whole = InverseBlock()(5, grid, rng(seed))
    for image in range(5):
        with mock.patch("torch.rand", return_value=uniform[:, image : image + 1]):
            assert torch.equal(InverseBlock()(1, grid, rng()), whole[image : image + 1])


@settings(max_examples=60)
@given(st.tuples(st.integers(4, 16), st.integers(4, 16)), SEEDS, st.integers(1, 5), st.integers(1, 10))
def test_multiblock_hides_its_blocks_and_keeps_one_count_of_context(grid, seed, targets, min_keep):
    rows, columns = grid
    masker = Multiblock(targets=targets, scale=(0.05, 0.1), min_keep=min_keep)
    mask, blocks = masker.blocks(6, grid, rng(seed))
    assert mask.shape == (6, rows * columns)
    assert torch.equal(mask, masker(6, grid, rng(seed)))
    assert len(mask.sum(1).unique()) == 1
    assert not mask.all(1).any()
    assert blocks.shape[:2] == (6, targets)
    assert mask.gather(1, blocks.flatten(1)).all()
    row, column = blocks // columns, blocks % columns  # each a full rectangle, which ends at the border
    height, width = (x.amax(-1) - x.amin(-1) + 1 for x in (row, column))
    assert (height * width == blocks.shape[2]).all()
    assert (blocks.diff() > 0).all()
    assert len(height.unique()) == len(width.unique()) == 1  # shared by the batch
    assert (row < rows).all()


@pytest.mark.parametrize("grid", [(14, 14), (8, 8)])
def test_multiblocks_context_is_one_rectangle_without_the_targets(grid):
    mask, blocks = Multiblock(scale=(0.05, 0.1), context=(0.3, 0.4)).blocks(256, grid, rng())
    side = round((0.4 * grid[0] * grid[1]) ** 0.5)
    for seen in ~mask.view(256, *grid):
        assert seen.any(0).sum() <= side
        assert seen.any(1).sum() <= side
    assert (~mask).sum() > 0
    assert len(blocks.flatten().unique()) == grid[0] * grid[1]  # blocks reach every patch


def test_multiblock_cuts_fewer_blocks_out_where_a_context_would_be_too_small():
    masker = Multiblock(scale=(0.9, 1.0), min_keep=20)
    for seed in range(20):
        assert ((~masker(8, (8, 8), rng(seed))).sum(1) >= 20).all()


def test_multiblock_refuses_to_keep_more_patches_than_there_are():
    with pytest.raises(ValueError, match="min_keep must be less than the 4 patches, not 4"):
        Multiblock(min_keep=4)(4, (2, 2), rng())


MASKERS = [Blockwise(), Blockwise(exact=True), Random(), NoMask(), InverseBlock(), Multiblock(scale=(0.01, 0.1))]


@settings(max_examples=60)
@given(st.sampled_from(MASKERS), st.tuples(st.integers(4, 20), st.integers(4, 20)), SEEDS)
def test_masks_follow_from_the_generator_alone(masker, grid, seed):
    one, other = rng(seed), rng(seed)
    for batch in (5, 3):  # and leave it at the same place
        torch.rand(1)
        assert torch.equal(masker(batch, grid, one), masker(batch, grid, other))


@pytest.mark.parametrize(
    "masker", [Blockwise(), Random(cell=2), InverseBlock(aspect=0.1), Multiblock(scale=(0.05, 0.1))]
)
def test_draws_differ_between_images_and_between_calls(masker):
    generator = rng()
    first, second = masker(64, (14, 14), generator), masker(64, (14, 14), generator)
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
        ({"type": "inverse_block", "ratio": 1}, "ratio must lie between 0 and 1"),
        ({"type": "inverse_block", "predict": 1.5}, "a share between 0 and 1, not 1.5"),
        ({"type": "multiblock", "min_keep": 0}, "min_keep must be at least 1, not 4 and 0"),
        ({"type": "multiblock", "scale": [0.2, 0.1]}, "scale must be a range above 0 up to 1, not 0.2 to 0.1"),
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
