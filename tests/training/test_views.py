"""Crops and views of images, against torchvision's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import stats
from torchvision.transforms import RandomResizedCrop, functional

from mimbench.config.schema import DataConfig, as_spec, from_spec
from mimbench.config.terms import ViewConfig
from mimbench.data.crops import DRAWS, crop_boxes
from mimbench.data.rendering import render
from mimbench.data.sampling import uniforms
from mimbench.data.views import Images, to_unit

SIZES = {"photo": (500, 375), "square": (32, 32), "panorama": (600, 90), "tower": (70, 300)}  # width, height


def boxes_of(size, crop, count, seed=0):
    keys = np.stack([np.zeros(count, np.int64), np.arange(count)], 1)
    return crop_boxes(np.tile(size, (count, 1)), crop, uniforms(seed, keys, DRAWS))


def theirs(size, crop, count):
    image = torch.empty(3, size[1], size[0])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = [RandomResizedCrop.get_params(image, list(crop), [3 / 4, 4 / 3]) for _ in range(count)]
    return np.array([(left, top, width, height) for top, left, height, width in found])


@pytest.mark.parametrize("crop", [(0.08, 1.0), (0.2, 1.0), (0.05, 0.4)])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_crop_boxes_are_distributed_as_torchvisions(size, crop):
    ours, other = boxes_of(size, crop, 4000), theirs(size, crop, 4000)
    for what in (lambda b: b[:, 2] * b[:, 3], lambda b: b[:, 2] / b[:, 3], lambda b: b[:, 0], lambda b: b[:, 1]):
        assert stats.ks_2samp(what(ours), what(other)).pvalue > 1e-3


def test_the_mean_area_of_crops_of_a_photograph_is_torchvisions():
    mean = {name: (b[:, 2] * b[:, 3]).mean() / (500 * 375) for name, b in
            (("ours", boxes_of((500, 375), (0.08, 1.0), 20000)), ("theirs", theirs((500, 375), (0.08, 1.0), 20000)))}  # fmt: skip
    assert mean["ours"] == pytest.approx(mean["theirs"], abs=0.006)


@given(
    width=st.integers(1, 700), height=st.integers(1, 700), seed=st.integers(0, 99),
    crop=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(sorted),
)  # fmt: skip
def test_a_crop_lies_in_its_image_and_depends_on_its_own_draws_alone(width, height, seed, crop):
    left, top, cut_width, cut_height = (boxes := boxes_of((width, height), crop, 5, seed)).T
    assert (left >= 0).all()
    assert (top >= 0).all()
    assert (cut_width >= 1).all()
    assert (cut_height >= 1).all()
    assert (left + cut_width <= width).all()
    assert (top + cut_height <= height).all()
    draws = uniforms(seed, np.array([[0, 3]]), DRAWS)
    assert np.array_equal(crop_boxes(np.array([[width, height]]), crop, draws)[0], boxes[3])


@pytest.mark.parametrize("size", [(1000, 10), (10, 1000), (60, 50)])
def test_where_no_box_fits_the_largest_central_one_is_taken(size):
    """Of the whole area and an aspect that never fits, torchvision's fallback."""
    draws = np.tile([0.999, 0.999, 0.5, 0.5], 10)[None]
    assert crop_boxes(np.array([size]), (1.0, 1.0), draws)[0].tolist() == fallback(size)


def fallback(size):
    image, original = torch.empty(3, size[1], size[0]), torch.Tensor.uniform_
    try:
        torch.Tensor.uniform_ = lambda tensor, low, high: tensor.fill_(high)  # an area and an aspect that do not fit
        top, left, height, width = RandomResizedCrop.get_params(image, [1.0, 1.0], [3 / 4, 4 / 3])
    finally:
        torch.Tensor.uniform_ = original
    return [left, top, width, height]


def test_a_cropped_view_has_the_pixels_of_torchvisions_resized_crop(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    images = Images([array], np.zeros(1, np.int64), 1, DataConfig(size=16, crop=(0.2, 1.0), flip=False))
    view = images.augmented(7, [(2, 0)])[0]
    from mimbench.data.sampling import derive

    left, top, width, height = crop_boxes(
        np.array([[90, 60]]), (0.2, 1.0), uniforms(derive(7, "crop"), np.array([[2, 0]]), DRAWS)
    )[0].tolist()
    expected = functional.resized_crop(Image.fromarray(array), top, left, height, width, [16, 16], 3)
    difference = np.abs(view.permute(1, 2, 0).numpy().astype(int) - np.asarray(expected, int))
    assert difference.max() <= 1  # rounding
    assert difference.mean() < 0.05


def test_the_tokenizers_view_shows_the_same_crop_flip_and_jitter_as_the_encoders():
    smooth = np.asarray(
        Image.fromarray(np.random.default_rng(1).integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((120, 90), 3)
    )
    for config in (DataConfig(size=32, crop=(0.3, 1.0), jitter=0.4), DataConfig(size=32, shift=3)):
        images, keys = Images([smooth], np.zeros(1, np.int64), 1, config), [(epoch, 0) for epoch in range(6)]
        encoders, tokenizers = images.for_two(3, keys, 16)
        assert encoders.shape == (6, 3, 32, 32)
        assert tokenizers.shape == (6, 3, 16, 16)
        assert torch.equal(encoders, images.augmented(3, keys))
        small = torch.nn.functional.avg_pool2d(encoders.float(), 2)
        assert (small - tokenizers.float()).abs().mean() < 4
        assert (small - tokenizers.float().flip(0)).abs().mean() > 12  # of other epochs


def test_large_jpeg_files_are_decoded_smaller_with_nearly_the_same_pixels(tmp_path):
    rough = np.random.default_rng(2).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(rough).resize((1000, 800), Image.Resampling.BICUBIC).save(tmp_path / "a.jpg", quality=95)
    Image.open(tmp_path / "a.jpg").save(tmp_path / "a.png")
    config = DataConfig(size=32, crop=(0.5, 1.0))
    views = [
        Images([tmp_path / name], np.zeros(1, np.int64), 1, config).augmented(0, [(e, 0) for e in range(5)]).float()
        for name in ("a.jpg", "a.png")
    ]
    assert (views[0] - views[1]).abs().mean() < 2.5


def test_a_recipe_that_crops_names_the_version_of_its_crops():
    assert "crop_version" not in as_spec(DataConfig()) | as_spec(ViewConfig())
    for config in (DataConfig(crop=(0.2, 1.0)), ViewConfig(crop=(0.2, 1.0))):
        assert as_spec(config)["crop_version"] == 2
        assert from_spec(type(config), as_spec(config)) == config


def test_views_of_images_in_memory_and_of_files_show_the_same_crops():
    smooth = np.stack([np.asarray(Image.fromarray(p).resize((32, 32), 3))
                       for p in np.random.default_rng(4).integers(0, 256, (3, 5, 5, 3), dtype=np.uint8)])  # fmt: skip
    keys, views = np.array([[0, 0], [1, 1], [0, 2]]), {"one": ViewConfig(crop=(0.3, 1.0))}
    together = render(smooth, keys, views, 32, 4, 0)["one"]
    alone = render(list(smooth), keys, views, 32, 4, 0)["one"]
    assert (together - alone).abs().mean() < 0.02


def test_bytes_become_numbers_from_zero_to_one_and_numbers_stay():
    raw = torch.tensor([0, 51, 255], dtype=torch.uint8)
    assert torch.allclose(to_unit(raw), torch.tensor([0.0, 0.2, 1.0]))
    assert torch.equal(to_unit(to_unit(raw)), to_unit(raw))


def test_a_large_batch_holds_few_files_open(tmp_path):
    import resource

    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "a.jpg")
    images = Images([tmp_path / "a.jpg"], np.zeros(1, np.int64), 1, DataConfig(size=8, crop=(0.3, 1.0)))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    try:
        assert images.augmented(0, [(epoch, 0) for epoch in range(400)]).shape == (400, 3, 8, 8)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
