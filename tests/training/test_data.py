"""Samples as functions of (seed, epoch, index), their order, and where they come from."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import stats

from mimbench.config.grid import load_grid
from mimbench.config.schema import DataConfig
from mimbench.data.sampling import BatchSampler, derive, uniforms
from mimbench.data.sources import source
from mimbench.data.sources.places import DATA_ROOT
from mimbench.data.views import MEAN, STD, Images, normalize
from mimbench.errors import UserError
from mimbench.plan.graph import make_plan


@given(seed=st.integers(0, 2**62), epoch=st.integers(0, 10**6), index=st.integers(0, 10**7))
def test_a_draw_depends_only_on_its_own_key(seed, epoch, index):
    alone = uniforms(seed, np.array([[epoch, index]]), 4)
    among = uniforms(seed, np.array([[1, 2], [epoch, index], [3, 4]]), 4)
    assert np.array_equal(alone[0], among[1])
    assert ((alone >= 0) & (alone < 1)).all()


def test_draws_are_uniform_and_neighboring_keys_are_uncorrelated():
    keys = np.stack(np.meshgrid(np.arange(200), np.arange(100)), -1).reshape(-1, 2)
    draws = uniforms(5, keys, 3)
    for column in draws.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-4
    assert abs(np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]) < 0.03
    assert abs(np.corrcoef(draws[:, 0], draws[:, 1])[0, 1]) < 0.03


@given(
    size=st.integers(1, 50),
    batch=st.integers(1, 12),
    steps=st.integers(1, 20),
    start=st.integers(0, 20),
    seed=st.integers(0, 99),
)
def test_a_resumed_run_gets_the_remaining_batches_of_an_uninterrupted_one(size, batch, steps, start, seed):
    whole = list(BatchSampler(size, batch, steps, seed))
    assert list(BatchSampler(size, batch, steps, seed, start=min(start, steps))) == whole[min(start, steps) :]
    keys = [key for keys in whole for key in keys]
    for epoch in range(len(keys) // size):
        indices = [index for e, index in keys if e == epoch]
        assert sorted(indices) == list(range(size))  # every image once per epoch


@given(world=st.sampled_from([1, 2, 4]), steps=st.integers(1, 6))
def test_the_batches_of_all_ranks_together_are_those_of_one_rank(world, steps):
    whole = list(BatchSampler(30, 8, steps, 0))
    ranks = [list(BatchSampler(30, 8, steps, 0, rank=r, world=world)) for r in range(world)]
    assert [[key for rank in ranks for key in rank[i]] for i in range(steps)] == whole


def pixels(count=6, side=8):
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def images(**config):
    source = pixels()
    return Images(source, np.zeros(len(source), np.int64), 1, DataConfig(size=8, **config))


def test_a_sample_does_not_depend_on_its_batch_and_differs_between_epochs():
    found = images(shift=2)
    keys = [(0, i) for i in range(6)]
    together = found.augmented(1, keys)
    assert torch.equal(together, torch.cat([found.augmented(1, [k]) for k in keys]))
    assert not torch.equal(together, found.augmented(1, [(1, i) for i in range(6)]))
    assert np.array_equal(found.source, pixels())  # the source is not written to


def test_half_of_the_samples_are_flipped_and_none_without_flip():
    found, plain = images(), images(flip=False)
    keys = [(e, 0) for e in range(400)]
    original = torch.from_numpy(pixels()[0].transpose(2, 0, 1))
    drawn = found.augmented(3, keys)
    same = [(torch.equal(d, original), torch.equal(d, original.flip(2))) for d in drawn]
    assert all(a or b for a, b in same)
    assert 150 < sum(a for a, _ in same) < 250
    assert all(torch.equal(d, original) for d in plain.augmented(3, keys))


@given(seed=st.integers(0, 200))
def test_a_shift_moves_by_at_most_the_given_pixels_and_repeats_the_border(seed):
    found = images(shift=2)
    drawn = found.augmented(seed, [(0, 1)])[0].numpy().transpose(1, 2, 0)
    padded = np.pad(pixels()[1], ((2, 2), (2, 2), (0, 0)), mode="edge")
    windows = [padded[y : y + 8, x : x + 8] for y in range(5) for x in range(5)]
    assert any(np.array_equal(drawn, w) or np.array_equal(drawn, w[:, ::-1]) for w in windows)


def test_the_encoder_sees_the_raw_view_standardized():
    raw = torch.rand(2, 3, 4, 4)
    expected = (raw - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    assert torch.allclose(normalize(raw), expected)


@pytest.fixture
def pets(tmp_path, monkeypatch):
    """An image folder: two classes of JPEG files, some of them gray."""
    rng = np.random.default_rng(1)
    for split, count in (("train", 30), ("val", 4)):
        for name in ("cat", "dog"):
            folder = tmp_path / "pets" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                shape = (40, 50) if index % 5 == 0 else (40, 50, 3)
                Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(folder / f"{index}.jpg")
    monkeypatch.setenv(DATA_ROOT, str(tmp_path))
    return DataConfig(name="pets", size=32, crop=(0.2, 1.0), jitter=0.4)


SPLITS = ("train", "labeled", "val", "test")


def test_the_splits_of_an_image_folder_never_change(pets, tmp_path):
    splits = {s: source("pets").load(pets, s, tmp_path) for s in SPLITS}
    assert [len(splits[s]) for s in SPLITS] == [60, 57, 3, 8]
    assert not set(splits["labeled"].source) & set(splits["val"].source)
    drawn = splits["train"].augmented(0, [(0, 0), (0, 1), (3, 1)])
    assert drawn.shape == (3, 3, 32, 32)
    assert drawn.dtype == torch.uint8
    assert torch.equal(drawn[1], splits["train"].augmented(0, [(0, 1)])[0])
    assert splits["test"].plain([0, 5]).shape == (2, 3, 32, 32)
    for split in ("train", "labeled", "test"):  # the first few are of all classes
        assert set(splits[split].head(6).labels) == {0, 1}


@pytest.mark.parametrize("name", ["shapes", "pets"])
def test_the_counts_of_a_source_are_those_of_its_splits(name, pets, cache):
    data = source(name)
    assert data.counts() == {s: len(data.load(DataConfig(name=name), s, cache)) for s in SPLITS}


def test_a_test_image_of_a_class_without_training_images_is_an_error_while_planning(pets, tmp_path):
    (tmp_path / "pets" / "train" / "dog").rename(tmp_path / "pets" / "train" / "wolf")
    with pytest.raises(UserError, match=r"val/dog/0.jpg: .*: unknown class 'dog'"):
        source("pets").counts()


def test_requesting_more_images_than_a_folder_has_is_an_error_while_planning(pets, ablations):
    sets = ("data.name=pets", "data.images=61")
    with pytest.raises(UserError, match=r"row 'beit': data\.images: pets/train: .* 60"):
        make_plan(load_grid(ablations, seeds=1, scale="smoke", sets=sets))


def test_requesting_more_images_than_a_split_has_is_an_error(cache):
    with pytest.raises(UserError, match="requested 1000000 images, only 1000 available"):
        source("shapes").load(DataConfig(), "val", cache).head(10**6)


def test_a_plan_lists_an_image_folder_once_for_what_is_used_and_once_for_what_is_not(
    pets, ablations, tmp_path, monkeypatch
):
    """Seven rows ask for it, and the evaluation with other settings."""
    listed, original = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(Path(path).name) or original(path))
    scale = yaml.safe_load((ROOT / "configs" / "scales" / "smoke.yaml").read_text())
    scale["data"].update(name="pets", images=60)
    scale["evaluation"] = {"data": {"name": "pets", "size": 32, "flip": False}, "labeled": 50, "val": 3, "test": 8}
    scale["evaluation"]["segmentation_data"] = "shapes"
    path = tmp_path / "pets.yaml"
    path.write_text(yaml.safe_dump(scale))
    make_plan(load_grid(ablations, seeds=1, scale=str(path)))
    assert [listed.count(name) for name in ("cat", "dog")] == [
        4,
        4,
    ]  # in train/ and val/: once what is used, once what is not


def test_a_changed_folder_has_another_fingerprint(pets, tmp_path):
    before = source("pets").facts(pets)
    (tmp_path / "pets" / "train" / "cat" / "0.jpg").unlink()
    assert source("pets").facts(pets) != before


def test_an_unknown_data_set_is_an_error_with_the_nearest_name(pets, monkeypatch):
    with pytest.raises(UserError, match="Did you mean 'pets'"):
        source("pest").counts()
    monkeypatch.delenv(DATA_ROOT)
    with pytest.raises(UserError, match="set MIMBENCH_DATA to the dataset root"):
        source("pets").counts()


def test_a_folder_may_hold_labeled_images_and_masks(pets, tmp_path):
    assert not (tmp_path / "pets" / "images").exists()
    for kind in ("images", "annotations"):
        (tmp_path / "pets" / kind / "training").mkdir(parents=True)
    (tmp_path / "pets" / "classes.json").write_text('["ground", "pet"]')
    both = source("pets")
    assert both.counts()["train"] > 0
    assert "segmentation_manifest" in both.segmentation_facts()


def test_a_folder_with_masks_alone_has_no_labeled_images(monkeypatch, tmp_path):
    monkeypatch.setenv(DATA_ROOT, str(tmp_path))
    (tmp_path / "streets" / "images" / "training").mkdir(parents=True)
    (tmp_path / "streets" / "classes.json").write_text('["road", "sky"]')
    assert "segmentation_manifest" in source("streets").segmentation_facts()
    with pytest.raises(UserError, match=r"streets: images with masks, which evaluation\.segmentation_data names"):
        source("streets").counts()


def test_an_image_folder_without_masks_is_no_segmentation_data(pets):
    with pytest.raises(UserError, match=r"segmentation_data: no .*ADE20K layout.* in .*pets"):
        source("pets").segmentation_facts()


def test_seeds_derived_from_different_names_differ():
    names = [(0, "masks", 1), (0, "masks", 11), (0, "masks1", 1), (1, "masks", 1), (0, "step", 1)]
    assert len({derive(*n) for n in names}) == len(names)
