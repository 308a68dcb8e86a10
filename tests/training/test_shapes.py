import numpy as np
import pytest

from mimbench.data.contact_sheet import contact_sheet
from mimbench.data.sources import shapes
from mimbench.data.sources.shapes import Shapes, render

GOLDEN_LABELS = [9, 11, 3, 0, 6, 3, 9, 6, 1, 9, 2, 2, 2, 7, 3, 5]
GOLDEN_MEAN = [0.3997, 0.4054, 0.4084]
GOLDEN_STD = [0.2249, 0.2268, 0.225]
GOLDEN_COVER = 0.2599


@pytest.fixture(scope="module")
def sample() -> Shapes:
    return render(1024, "train")


def test_arrays_have_the_documented_shapes_and_types(sample):
    assert [part.shape for part in sample] == [(1024, 32, 32, 3), (1024,), (1024, 32, 32)]
    assert [part.dtype for part in sample] == [np.uint8, np.int64, np.uint8]
    assert len(shapes.CLASSES) == 12


def test_rendering_is_deterministic(sample):
    for first, second in zip(sample, render(1024, "train"), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("count", [1, 256, 300])
def test_a_shorter_rendering_is_a_prefix_of_a_longer_one(sample, count):
    for long, short in zip(sample, render(count, "train"), strict=True):
        np.testing.assert_array_equal(long[:count], short)


def test_pixels_are_those_of_this_version(sample):
    # Not a checksum: sine and power may differ in the last bit between processors, and labels must not.
    assert sample.labels[:16].tolist() == GOLDEN_LABELS
    np.testing.assert_allclose((sample.images / 255).mean((0, 1, 2)), GOLDEN_MEAN, atol=1e-3)
    np.testing.assert_allclose((sample.images / 255).std((0, 1, 2)), GOLDEN_STD, atol=1e-3)
    assert (sample.masks > 0).mean() == pytest.approx(GOLDEN_COVER, abs=1e-3)


def test_the_labeled_object_is_in_the_mask(sample):
    share = (sample.masks == (sample.labels + 1)[:, None, None]).mean((1, 2))
    assert (share > 0.05).mean() > 0.95
    assert sample.masks.max() == 12


def test_masked_pixels_are_brighter_than_the_ground(sample):
    assert sample.images[sample.masks > 0].mean() > sample.images[sample.masks == 0].mean() + 40


def test_classes_are_balanced_within_sampling_error(sample):
    counts = np.bincount(sample.labels, minlength=12)
    expected = len(sample.labels) / 12
    assert np.abs(counts - expected).max() < 4 * np.sqrt(expected)


def test_no_two_splits_share_an_image():
    images = np.concatenate([render(256, split).images for split in shapes.SPLITS])
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) == len(images)


def test_scenes_are_the_same_at_every_size(sample):
    large = render(64, "train", size=64)
    assert large.images.shape == (64, 64, 64, 3)
    np.testing.assert_array_equal(large.labels, sample.labels[:64])
    assert (large.masks[:, ::2, ::2] == sample.masks[:64]).mean() > 0.95


def test_an_unknown_split_and_a_count_of_zero_are_errors():
    with pytest.raises(ValueError, match=r"unknown split 'trian'.*labeled"):
        render(1, "trian")
    with pytest.raises(ValueError, match="at least 1"):
        render(0, "train")


def test_the_contact_sheet_is_a_small_png(tmp_path):
    path = tmp_path / "shapes.png"
    contact_sheet(path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size < 150_000
