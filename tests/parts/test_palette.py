"""K-means and the palette, against scipy and transformers."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.cluster.vq import kmeans2

from mimbench import registry
from mimbench.models.kmeans import assigned, kmeans
from mimbench.parts import PatchGrid


def palette(patch, colors=6):
    torch.manual_seed(0)
    tokenizer, grid = registry.build("tokenizer", {"type": "palette", "colors": colors}), PatchGrid(8, 8, patch)
    tokenizer.build(grid)
    return tokenizer, grid


def images(side, count=4):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def test_kmeans_from_the_same_start_is_scipys():
    points = torch.rand(300, 3, generator=torch.Generator().manual_seed(0))
    start = kmeans(points, 7, 0)
    expected, labels = kmeans2(points.double().numpy(), start.double().numpy(), iter=6, minit="matrix")
    found = kmeans(points, 7, 6)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(assigned(points, kmeans(points, 7, 5)), torch.from_numpy(labels).long())


def test_codes_of_pixels_are_those_of_transformers_for_image_gpt():
    from transformers.models.imagegpt.image_processing_imagegpt import color_quantize_torch

    tokenizer, grid = palette(patch=1)
    raw = images(8)
    tokenizer.find(raw)
    pixels, colors = (2 * x - 1 for x in (raw.permute(0, 2, 3, 1).reshape(-1, 3), tokenizer.palette))  # as theirs
    assert torch.equal(tokenizer({"raw": raw}, grid).flatten(), color_quantize_torch(pixels, colors))


def test_a_patch_of_several_pixels_has_the_code_of_its_mean_color():
    tokenizer, grid = palette(patch=4)
    raw = images(32)
    pixels, pixel_grid = palette(patch=1)
    small = F.interpolate(raw, size=8, mode="area")
    tokenizer.find(raw)
    pixels.find(small)
    assert torch.equal(tokenizer({"raw": raw}, grid), pixels({"raw": small}, pixel_grid))


def test_more_colors_are_nearer_and_one_color_is_no_palette():
    few, many, grid = palette(1, 3)[0], palette(1, 12)[0], PatchGrid(8, 8, 1)
    raw = images(8)
    for tokenizer in (few, many):
        tokenizer.find(raw)
        assert tokenizer.quality({"raw": raw}, grid)["usable"]
    assert many.quality({"raw": raw}, grid)["color_mse"] < few.quality({"raw": raw}, grid)["color_mse"]
    many.palette[:] = raw.mean((0, 2, 3))
    why = many.quality({"raw": raw}, grid)["why"]
    assert "no nearer" in why
    assert "perplexity 1.0 is not above 3.0" in why


@pytest.mark.parametrize("on_sphere", [False, True])
def test_kmeans_finds_separate_groups_and_assigns_each_point_to_its_own(on_sphere):
    rng = torch.Generator().manual_seed(0)
    centers = F.normalize(torch.randn(5, 4, generator=rng), dim=-1)
    members = torch.arange(5).repeat_interleave(40)
    points = centers[members] + 0.01 * torch.randn(200, 4, generator=rng)
    points = F.normalize(points, dim=-1) if on_sphere else points
    codes = assigned(points, kmeans(points, 20, 20, on_sphere=on_sphere), on_sphere=on_sphere)
    assert all(len(members[codes == code].unique()) == 1 for code in codes.unique())
    assert torch.equal(assigned(points, centers, on_sphere=on_sphere), members)


def test_kmeans_with_fewer_points_than_centers_gives_as_many_as_asked():
    assert kmeans(torch.eye(3), 7, 3).shape == (7, 3)
