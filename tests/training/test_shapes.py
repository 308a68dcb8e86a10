import numpy as np
import pytest
import torch

from mimbench.config.schema import DataConfig
from mimbench.data.contact_sheet import contact_sheet
from mimbench.data.sources import shapes, source
from mimbench.data.sources.shapes import Shapes, render
from mimbench.parts import PatchGrid
from mimbench.registries.tokenizers.hog import HOG

GOLDEN_LABELS = [3, 9, 5, 6, 11, 8, 1, 11, 0, 0, 5, 2, 9, 4, 1, 4]
GOLDEN_MEAN = [0.4852, 0.4856, 0.4857]
GOLDEN_STD = [0.2034, 0.2024, 0.2035]
GOLDEN_COVER = 0.3584


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


def test_a_mask_is_exact(monkeypatch):
    # White objects on black ground, without clutter, light and noise: a gray level is the share of a pixel that is covered.
    bare = dict.fromkeys(("GROUND_AMPLITUDE", "PIXEL_NOISE", "MAX_GRADIENT", "MAX_HUE"), 0.0)
    plain = {"BACK_STROKE_CHANCE": 0.0, "FRONT_STROKE_CHANCE": 0.0, "GAIN": (1.0, 1.0), "GROUND_TONE": (0.0, 0.0)}
    for name, value in {**bare, **plain, "LIGHT_TONE": (1.0, 1.0), "DARK_TONE": (1.0, 1.0)}.items():
        monkeypatch.setattr(shapes, name, value)
    images, _, masks = render(256, "train")
    covered = images[..., 0] / 255
    assert (masks[covered == 0] == 0).all()
    assert (masks[covered == 1] > 0).all()
    assert covered[masks > 0].min() >= 0.5
    assert covered[masks == 0].mean() < 0.03  # edges, at most half covered by each object


def test_colors_say_nothing_about_the_class(sample):
    assert nearest_neighbor_accuracy(lambda images: images.mean((1, 2))) < 0.13
    inside = [sample.images[sample.masks == label].mean() for label in range(1, 13)]
    assert np.ptp(inside) < 15  # gray levels


def test_nearest_images_in_pixels_say_little_about_the_class():
    assert nearest_neighbor_accuracy(lambda images: images.reshape(len(images), -1)) < 0.25


def test_the_target_of_maskfeat_says_much_about_the_class():
    # a class has its orientations, whatever the colors and polarity of its markings: a limit, told in docs/builtin.md
    def histograms(images):
        batch = {"image": torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1}
        return HOG(cells=1)(batch, PatchGrid(8, 8, 4)).mean(1).numpy()

    assert nearest_neighbor_accuracy(histograms) > 0.4


def nearest_neighbor_accuracy(features) -> float:
    """By cosine, of 500 images among 1000 labeled ones; chance is 0.083."""
    labeled, val = render(1000, "labeled", draw="shapes-trial"), render(500, "val", draw="shapes-trial")
    bank, queries = (features(part.images.astype(np.float32)) for part in (labeled, val))
    bank, queries = bank - bank.mean(0), queries - bank.mean(0)
    bank /= np.linalg.norm(bank, axis=1, keepdims=True)
    return float((labeled.labels[(queries @ bank.T).argmax(1)] == val.labels).mean())


def test_a_herd_has_one_class_and_at_most_one_stray(sample):
    shown = [set(np.unique(mask)) - {0} for mask in sample.masks]
    assert all(len(labels) <= 2 for labels in shown)
    assert np.mean([len(labels) == 2 for labels in shown]) == pytest.approx(shapes.STRAY_CHANCE * 11 / 12, abs=0.05)


def test_the_trial_draw_shares_no_image_with_the_published_one(tmp_path):
    config = DataConfig(name="shapes-trial")
    trial, published = render(256, "val", draw="shapes-trial"), render(256, "val")
    assert not (trial.images == published.images).all((1, 2, 3)).any()
    loaded = source("shapes-trial").load(config, "val", tmp_path)
    np.testing.assert_array_equal(loaded.source[:256], trial.images)
    np.testing.assert_array_equal(source("shapes-trial").masks(config, "val", tmp_path)[:256], trial.masks)


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
