"""`mimbench show`: each picture of real, short pre-trainings, and what is drawn in it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from commands import mimbench
from conftest import SMALL
from PIL import Image

from mimbench import registry
from mimbench.config.grid import load_grid
from mimbench.data.sampling import generator
from mimbench.data.views import normalize
from mimbench.parts import Masks, PatchGrid
from mimbench.plan.graph import make_plan
from mimbench.plan.record import prepare
from mimbench.pretrain.terms import FrozenTokenizer
from mimbench.report.shown import copy_pictures
from mimbench.run import training
from mimbench.run.encoder import of_run
from mimbench.run.execute import execute
from mimbench.run.objective import finished_objective, keep_objective
from mimbench.runtime import Runtime
from mimbench.show.attention import last_attention
from mimbench.show.colors import Projection
from mimbench.show.masks import coverage, example_masks, over_images
from mimbench.show.predictions import compared_strips, placed
from mimbench.show.tokens import code_shares
from mimbench.store.results import Store

GRID = """
name: seen
title: what is seen
scale: smoke
protocols: [knn]
base: beit
rows:
  - {name: beit, label: BEiT}
  - {name: mae, base: mae}
  - {name: blocks, base: ijepa}
  - {name: shared, base: ibot}
  - {name: frozen, base: eva, teacher: {row: mae}}
  - {name: images, base: simclr}
  - {name: never, schedule: {lr: 1.0e-3}}
  - {name: scratch, pretrain: false}
"""
TRAINED = ("beit", "mae", "blocks", "shared", "frozen")
SHAPE = PatchGrid(8, 8, 4)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, cache):
    """The results folder, the runs of each row, and each objective as its training left it."""
    folder = tmp_path_factory.mktemp("seen")
    (folder / "seen.yaml").write_text(GRID)
    store = Store(folder / "results")
    store.root.mkdir()
    (store.root / "cache").symlink_to(cache)
    plan = make_plan(load_grid(str(folder / "seen.yaml"), seeds=1, sets=SMALL))
    prepare(plan, store)
    left = {}

    def keep(run, objective):
        left[run.name] = {key: value.clone() for key, value in objective.state_dict().items()}
        return keep_objective(run, objective)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "keep_objective", keep)
        for row in TRAINED:
            for role, run in plan.rows[row][0].items():
                if role in ("pretrain", "tokenizer"):
                    execute(store, run, Runtime())
    return store, plan.rows, left


def shown(trained, *words):
    store, _, _ = trained
    return mimbench("show", *words, "--results", store.root)


@pytest.mark.parametrize("row", TRAINED)
def test_a_finished_pre_training_is_made_again_from_its_files(trained, row):
    store, rows, left = trained
    run = rows[row][0]["pretrain"]
    again = finished_objective(store, store.run(run)).state_dict()
    assert again.keys() == left[run].keys()
    assert all(torch.equal(again[key], value) for key, value in left[run].items())


@pytest.mark.parametrize("what", ["masks", "tokens", "predictions", "attention", "features"])
def test_a_row_is_drawn_beside_its_report(trained, what):
    done = shown(trained, what, "seen", "beit", "--images", 3)
    assert done.returncode == 0, done.stderr
    path = trained[0].report_folder("seen", "smoke") / "pictures" / f"beit.{what}.png"
    assert done.stdout == f"{path}\n"
    with Image.open(path) as picture:
        assert picture.width > 600
        assert picture.info["Images"] == "built-in"


@pytest.mark.parametrize("row", ["mae", "blocks", "shared", "frozen"])
def test_predictions_of_every_kind_of_target_are_drawn(trained, row):
    done = shown(trained, "predictions", "seen", row, "--images", 2)
    assert done.returncode == 0, done.stderr


def test_a_run_is_drawn_by_its_hash_and_an_exported_encoder_by_its_folder(trained, tmp_path):
    store, rows, _ = trained
    run = rows["mae"][0]["pretrain"]
    done = shown(trained, "features", run.rpartition("-")[2][:10], "--images", 2)
    assert done.stdout == f"{store.root / 'pictures' / run}.features.png\n"
    mimbench("export", run, "--to", "timm", "--out", tmp_path / "mae", "--results", store.root)
    exported = shown(trained, "features", tmp_path / "mae", "--images", 2)
    pictures = [np.asarray(Image.open(words.stdout.strip()))[80:] for words in (done, exported)]  # below the titles
    assert np.array_equal(*pictures)


def test_pictures_of_other_images_lie_apart_and_are_not_published(trained, tmp_path):
    folder, report = tmp_path / "photos", trained[0].report_folder("seen", "smoke")
    folder.mkdir()
    for index in range(4):
        Image.fromarray(np.full((40, 50, 3), 60 * index, np.uint8)).save(folder / f"{index}.png")
    done = shown(trained, "masks", "seen", "shared", "--data", folder)
    assert done.stdout == f"{trained[0].root}/pictures/seen.smoke.shared.masks.png\n"
    assert shown(trained, "masks", "seen", "shared").returncode == 0
    (report / "pictures" / "frozen.masks.png").write_bytes(Path(done.stdout.strip()).read_bytes())
    copy_pictures(report, tmp_path / "copy")
    copied = {path.name for path in (tmp_path / "copy" / "pictures").iterdir()}
    assert "shared.masks.png" in copied
    assert "frozen.masks.png" not in copied


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("predictions", "seen", "images"), "compares whole images, so no patch is predicted"),
        (("predictions", "seen", "scratch"), "from scratch|scratch, seed 0: has no prediction"),
        (("predictions", "seen", "never"), "has no weights (planned). Run its grid"),
        (("masks", "seen", "scratch"), "has no masker: nothing was pre-trained"),
        (("tokens", "seen", "mae"), "tokenizer 'pixels' gives features, not one code per patch"),
        (("tokens", "seen", "shared"), "reads the model as it trains"),
        (("features", "seen", "beet"), "Did you mean 'beit'?"),
        (("features", "sen", "beit"), "Did you mean 'seen'?"),
        (("features", "seen", "beit", "--seed", "3"), "unknown seed '3'"),
        (("features",), "name a run, a grid and its row, or a checkpoint"),
        (("masks", "seen", "beit", "--images", "0"), "--images: must be from 1 to"),
    ],
)
def test_what_cannot_be_shown_is_said_in_one_sentence(trained, words, complaint):
    done = shown(trained, *words)
    assert done.returncode == 2
    assert any(part in done.stderr for part in complaint.split("|"))
    assert done.stderr.count("\n") == 1


def test_a_run_without_its_decoders_says_how_to_get_them(trained):
    store, rows, _ = trained
    rest = store.run(rows["blocks"][0]["pretrain"]).work / "objective.pt"
    away = rest.rename(rest.with_suffix(".away"))
    try:
        assert "earlier versions kept no decoders" in shown(trained, "predictions", "seen", "blocks").stderr
    finally:
        away.rename(rest)


@pytest.mark.parametrize("spec", [{"type": "random", "ratio": 0.75}, {"type": "blockwise", "min_block": 4}])
def test_a_coverage_counts_the_masks_that_a_training_draws(spec):
    found, masker = coverage(spec, SHAPE, images=128, seed=3), registry.build("masker", spec)
    drawn = torch.cat([masker(64, (8, 8), generator(3, "masks", step)) for step in range(2)])
    assert np.array_equal(found.masked, drawn.sum(0).reshape(8, 8).numpy())
    assert np.array_equal(found.predicted, found.masked)
    assert found.counts.tolist() == torch.bincount(drawn.sum(1), minlength=65).tolist()


def test_blocks_are_counted_once_where_they_overlap():
    found = coverage({"type": "multiblock"}, SHAPE, images=64)
    assert found.predicted.max() <= 64
    assert (found.predicted <= found.masked).all()


def test_images_stand_where_nothing_is_masked():
    masks = example_masks({"type": "random", "ratio": 0.5}, SHAPE, 2)
    pictures = list(np.random.default_rng(0).random((2, 32, 32, 3)))
    visible = ~masks.masked.reshape(2, 8, 8).numpy().repeat(4, 1).repeat(4, 2)
    for picture, drawn, seen in zip(pictures, over_images(pictures, masks, SHAPE), visible, strict=True):
        assert np.array_equal(drawn[seen], picture[seen])
        assert len(np.unique(drawn[~seen], axis=0)) == 1


@pytest.mark.parametrize("normalize_patches", [False, True])
def test_pixels_decode_to_the_image_and_predictions_change_only_their_places(normalize_patches):
    tokenizer = registry.build("tokenizer", {"type": "pixels", "normalize": normalize_patches})
    raw = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    target = tokenizer({"raw": raw}, SHAPE)
    assert torch.allclose(tokenizer.decode(target, {"raw": raw}, SHAPE), raw, atol=1e-5)
    masked = example_masks({"type": "random", "ratio": 0.5}, SHAPE, 2).masked
    masks = Masks(masked, masked.flatten().nonzero().squeeze(1), None, int(masked.sum()))
    term = type("Term", (), {"tokenizer": FrozenTokenizer(tokenizer, SHAPE, torch.device("cpu"))})
    zeros = torch.zeros(len(masks.predicted), tokenizer.width(SHAPE))
    (strip,), _ = compared_strips(term, zeros, target, masks, {"raw": raw}, SHAPE, 2)
    visible = ~masked[0].reshape(8, 8).numpy().repeat(4, 0).repeat(4, 1)
    changed = np.abs(strip.cells[0] - raw[0].permute(1, 2, 0).numpy()).max(-1) > 1e-4
    assert not changed[visible].any()
    assert changed[~visible].mean() > 0.9


def test_predicted_codes_stand_at_their_places():
    masks = Masks(torch.zeros(2, 4, dtype=torch.bool), torch.tensor([1, 6]), None, 2)
    full = placed(torch.tensor([9, 8]), torch.zeros(2, 4, dtype=torch.int64), masks)
    assert full.tolist() == [[0, 9, 0, 0], [0, 0, 8, 0]]


def test_shares_of_codes_are_sorted_and_sum_to_one():
    assert code_shares(torch.tensor([[2, 2, 0, 2]]), 4).tolist() == [0.75, 0.25, 0.0, 0.0]


def test_attention_is_what_the_last_block_computes(trained):
    store, rows, _ = trained
    encoder = of_run(store, rows["beit"][0]["pretrain"])
    images = normalize(torch.rand(2, 3, 32, 32))
    with torch.no_grad():
        looks = last_attention(encoder, images)
        before_last = encoder(images, taps=(encoder.depth - 2,)).taps[encoder.depth - 2]
    assert torch.allclose(looks.sum(-1), torch.ones(()), atol=1e-5)
    assert torch.allclose(looks.mean(1)[:, 0, 1:], encoder.class_attention(before_last), atol=1e-5)


def test_three_components_explain_features_of_rank_three():
    rng = torch.Generator().manual_seed(0)
    features = torch.randn(50, 3, generator=rng) @ torch.randn(3, 16, generator=rng)
    projection = Projection(features)
    assert projection.share == pytest.approx(1)
    colors = projection(features)
    assert colors.shape == (50, 3)
    assert colors.min() == 0
    assert colors.max() == 1
