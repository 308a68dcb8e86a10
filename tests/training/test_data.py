"""Samples as functions of (seed, epoch, index), and the order they come in."""

from __future__ import annotations

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
from mimbench.data.sources import images as module
from mimbench.data.sources.images import Images, counts, facts, load, normalise
from mimbench.errors import UserError
from mimbench.plan.graph import make_plan


@given(seed=st.integers(0, 2**62), epoch=st.integers(0, 10**6), index=st.integers(0, 10**7))
def test_a_draw_depends_on_its_own_key_alone(seed, epoch, index):
    alone = uniforms(seed, np.array([[epoch, index]]), 4)
    among = uniforms(seed, np.array([[1, 2], [epoch, index], [3, 4]]), 4)
    assert np.array_equal(alone[0], among[1])
    assert ((alone >= 0) & (alone < 1)).all()


def test_draws_are_uniform_and_neighbouring_keys_are_unrelated():
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
def test_a_resumed_order_is_the_rest_of_the_whole_one(size, batch, steps, start, seed):
    whole = list(BatchSampler(size, batch, steps, seed))
    assert list(BatchSampler(size, batch, steps, seed, start=min(start, steps))) == whole[min(start, steps) :]
    keys = [key for keys in whole for key in keys]
    for epoch in range(len(keys) // size):
        indices = [index for e, index in keys if e == epoch]
        assert sorted(indices) == list(range(size))  # every image once an epoch


@given(world=st.sampled_from([1, 2, 4]), steps=st.integers(1, 6))
def test_the_ranks_batches_are_cut_from_the_whole_one(world, steps):
    whole = list(BatchSampler(30, 8, steps, 0))
    ranks = [list(BatchSampler(30, 8, steps, 0, rank=r, world=world)) for r in range(world)]
    assert [[key for rank in ranks for key in rank[i]] for i in range(steps)] == whole


def pictures(count=6, side=8):
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def images(**config):
    source = pictures()
    return Images(source, np.zeros(len(source), np.int64), 1, DataConfig(size=8, **config))


def test_a_sample_is_the_same_in_any_batch_and_another_in_another_epoch():
    found = images(shift=2)
    keys = [(0, i) for i in range(6)]
    together = found.drawn(1, keys)
    assert torch.equal(together, torch.cat([found.drawn(1, [k]) for k in keys]))
    assert not torch.equal(together, found.drawn(1, [(1, i) for i in range(6)]))
    assert np.array_equal(found.source, pictures())  # the source is not written to


def test_half_of_the_samples_are_mirrored_and_none_where_it_is_off():
    found, plain = images(), images(flip=False)
    keys = [(e, 0) for e in range(400)]
    original = torch.from_numpy(pictures()[0].transpose(2, 0, 1)).float() / 255
    drawn = found.drawn(3, keys)
    same = [(torch.equal(d, original), torch.equal(d, original.flip(2))) for d in drawn]
    assert all(a or b for a, b in same)
    assert 150 < sum(a for a, _ in same) < 250
    assert all(torch.equal(d, original) for d in plain.drawn(3, keys))


@given(seed=st.integers(0, 200))
def test_a_shift_moves_by_at_most_so_many_pixels_and_repeats_the_border(seed):
    found = images(shift=2)
    drawn = (found.drawn(seed, [(0, 1)])[0] * 255).round().byte().numpy().transpose(1, 2, 0)
    padded = np.pad(pictures()[1], ((2, 2), (2, 2), (0, 0)), mode="edge")
    windows = [padded[y : y + 8, x : x + 8] for y in range(5) for x in range(5)]
    assert any(np.array_equal(drawn, w) or np.array_equal(drawn, w[:, ::-1]) for w in windows)


def test_the_encoders_view_is_the_raw_one_standardised():
    raw = torch.rand(2, 3, 4, 4)
    expected = (raw - torch.tensor(module.MEAN).view(3, 1, 1)) / torch.tensor(module.STD).view(3, 1, 1)
    assert torch.allclose(normalise(raw), expected)


@pytest.fixture
def photographs(tmp_path, monkeypatch):
    """Two classes of JPEG files, one of them grey, as ImageFolder has them."""
    rng = np.random.default_rng(1)
    for split, count in (("train", 30), ("val", 4)):
        for name in ("cat", "dog"):
            folder = tmp_path / "pets" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                shape = (40, 50) if index % 5 == 0 else (40, 50, 3)
                Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(folder / f"{index}.jpg")
    monkeypatch.setenv(module.DATA_ROOT, str(tmp_path))
    return DataConfig(name="pets", size=32, crop=(0.2, 1.0), jitter=0.4)


def test_a_folder_of_photographs_is_cut_into_splits_that_never_change(photographs, tmp_path):
    splits = {s: load(photographs, s, tmp_path) for s in ("train", "labelled", "val", "test")}
    assert [len(splits[s]) for s in ("train", "labelled", "val", "test")] == [60, 57, 3, 8]
    assert not set(splits["labelled"].source) & set(splits["val"].source)
    drawn = splits["train"].drawn(0, [(0, 0), (0, 1), (3, 1)])
    assert drawn.shape == (3, 3, 32, 32)
    assert 0 <= float(drawn.min()) <= float(drawn.max()) <= 1
    assert torch.equal(drawn[1], splits["train"].drawn(0, [(0, 1)])[0])
    assert splits["test"].plain([0, 5]).shape == (2, 3, 32, 32)
    for split in ("train", "labelled", "test"):  # the first few are of all classes
        assert set(splits[split].head(6).labels) == {0, 1}


def test_what_a_plan_counts_is_what_there_is_to_load(photographs, tmp_path):
    assert counts("pets") == {s: len(load(photographs, s, tmp_path)) for s in ("train", "labelled", "val", "test")}


def test_a_class_of_the_test_that_training_lacks_is_named_while_planning(photographs, tmp_path):
    (tmp_path / "pets" / "train" / "dog").rename(tmp_path / "pets" / "train" / "wolf")
    with pytest.raises(UserError, match=r"val/dog/0.jpg: .*: unknown class 'dog'"):
        counts("pets")


def test_more_photographs_than_there_are_are_refused_while_planning(photographs, ablations):
    sets = ("data.name=pets", "data.images=61")
    with pytest.raises(UserError, match=r"row 'beit': data\.images: 61 train images asked for, pets has 60"):
        make_plan(load_grid(ablations, seeds=1, scale="smoke", sets=sets))


def test_a_folder_is_surveyed_once_a_plan(photographs, ablations, tmp_path, monkeypatch):
    """Seven rows ask of it, and the evaluation with other settings."""
    listed, original = [], module._files
    monkeypatch.setattr(module, "_files", lambda folder: listed.append(folder.name) or original(folder))
    scale = yaml.safe_load((ROOT / "configs" / "scales" / "smoke.yaml").read_text())
    scale["data"].update(name="pets", images=60)
    scale["evaluation"] = {"data": {"name": "pets", "size": 32, "flip": False}, "labelled": 50, "val": 3, "test": 8}
    scale["evaluation"]["segmentation_data"] = "shapes"
    path = tmp_path / "pets.yaml"
    path.write_text(yaml.safe_dump(scale))
    make_plan(load_grid(ablations, seeds=1, scale=str(path)))
    assert sorted(listed) == ["train", "val"]


def test_a_changed_folder_has_another_fingerprint(photographs, tmp_path):
    before = facts(photographs)
    (tmp_path / "pets" / "train" / "cat" / "0.jpg").unlink()
    assert facts(photographs) != before


def test_a_missing_folder_is_answered_with_what_is_there(photographs):
    with pytest.raises(UserError, match="Did you mean 'pets'"):
        load(DataConfig(name="pest"), "train", None)


def test_more_images_than_there_are_is_refused(cache):
    with pytest.raises(UserError, match="are there"):
        load(DataConfig(), "val", cache).head(10**6)


def test_seeds_derived_from_different_names_differ():
    names = [(0, "masks", 1), (0, "masks", 11), (0, "masks1", 1), (1, "masks", 1), (0, "step", 1)]
    assert len({derive(*n) for n in names}) == len(names)
