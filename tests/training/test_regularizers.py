"""The regularizers of fine-tuning: timm's, as functions of (seed, epoch, image) or (seed, step)."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from conftest import SMALL
from PIL import Image
from test_evals import SMOKE, settings, under_test  # noqa: F401
from test_training import StopAt, run_as_two
from timm.data import create_transform
from timm.data.auto_augment import RandAugment
from timm.data.mixup import Mixup

from mimbench.config.grid import load_grid
from mimbench.data.loading import Keyed, training_stream
from mimbench.data.sampling import BatchSampler, derive
from mimbench.data.views import MEAN, STD, normalize, to_unit
from mimbench.errors import Interrupted, RunFailed
from mimbench.evals import finetune
from mimbench.evals.regularize import Augmented, Mix, posterize
from mimbench.evals.sweep import schedule_at
from mimbench.plan.graph import make_plan
from mimbench.plan.record import prepare
from mimbench.protocols import load
from mimbench.run.execute import execute
from mimbench.runtime import Runtime
from mimbench.store.results import Store
from mimbench.store.weights import load_weights

ALL_ON = {"mixup": 0.8, "cutmix": 1.0, "rand_augment": "rand-m9-mstd0.5-inc1", "erasing": 0.5, "repeats": 3, "ema": 0.9,
          "drop_path": 0.1, "label_smoothing": 0.1, "layer_decay": 0.65, "curve": True}  # fmt: skip


def keyed(under_test):  # noqa: F811
    return Keyed(under_test.images("labeled"), 3)


def test_a_setting_at_its_neutral_value_leaves_the_fingerprint_alone_and_another_value_changes_it():
    plain = load("finetune", SMOKE["finetune"], "test")
    assert plain.settings["mixup"] == 0.0
    assert "mixup" not in plain.named
    same = load("finetune", SMOKE["finetune"], "test", {"mixup": 0, "ema": None, "repeats": 1})
    assert same.fingerprint == plain.fingerprint
    assert load("finetune", SMOKE["finetune"], "test", {"mixup": 0.8}).fingerprint != plain.fingerprint
    without = replace(plain, settings={k: v for k, v in plain.settings.items() if k not in plain.neutral}, neutral={})
    assert without.fingerprint == plain.fingerprint


def test_an_augmented_view_is_a_function_of_seed_epoch_and_image_whatever_was_drawn_before(under_test):  # noqa: F811
    keys = [(0, 1), (0, 2), (1, 1)]
    made = Augmented(keyed(under_test), 32, "rand-m9-mstd0.5-inc1", 0.9)
    together = made.__getitems__(keys)["raw"]
    random.seed(0), np.random.seed(0)
    alone = [made.__getitems__([key])["raw"][0] for key in reversed(keys)]
    assert all(torch.equal(one, other) for one, other in zip(together, reversed(alone), strict=True))
    assert not torch.equal(together[0], together[2])


def test_loader_workers_change_no_augmented_view(under_test):  # noqa: F811
    made = Augmented(keyed(under_test), 32, "rand-m9-mstd0.5-inc1", 0.9)
    schedule = schedule_at(settings("finetune", batch=8), 1e-3, 16)
    streams = [training_stream(made, 16, schedule, 0, Runtime(workers=n), repeats=2)(0) for n in (0, 2)]
    assert all(torch.equal(one["raw"], two["raw"]) for one, two in zip(*streams, strict=True))


def test_rand_augment_is_that_of_timms_training_transform_on_the_same_pixels(under_test):  # noqa: F811
    source = keyed(under_test)
    made = Augmented(source, 32, "rand-m9-mstd0.5-inc1", 0.0)
    whole = create_transform(32, is_training=True, auto_augment="rand-m9-mstd0.5-inc1", interpolation="bicubic",
                             mean=MEAN, std=STD)  # fmt: skip
    timms = next(part for part in whole.transforms if isinstance(part, RandAugment))
    for key in [(0, index) for index in range(8)]:
        view = source.__getitems__([key])["raw"][0]
        drawn = derive(3, "augment", *key)
        image = Image.fromarray(view.permute(1, 2, 0).numpy())
        found = made.__getitems__([key])["raw"][0]
        random.seed(drawn), np.random.seed(drawn % 2**32)
        assert np.array_equal(found.permute(1, 2, 0).numpy(), np.array(timms(image)))


def test_the_highest_magnitude_of_every_operation_can_be_drawn(under_test):  # noqa: F811
    made = Augmented(keyed(under_test), 32, "rand-m10-n2-inc1", 0.0)
    assert any(operation.name == "PosterizeIncreasing" for operation in made.transform.ops)
    views = [made.__getitems__([(epoch, index) for index in range(32)])["raw"] for epoch in range(8)]
    assert torch.cat(views).dtype == torch.uint8


@pytest.mark.parametrize("bits", [0, 1, 4, 8])
def test_posterizing_keeps_the_highest_bits(bits):
    image = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
    kept = np.asarray(image) & (0xFF << (8 - bits) & 0xFF)
    assert np.array_equal(np.asarray(posterize(image, bits)), kept)


def test_erasing_fills_boxes_with_standard_noise_and_leaves_the_rest_alone(under_test):  # noqa: F811
    source, keys = keyed(under_test), [(0, index) for index in range(64)]
    before = to_unit(source.__getitems__(keys)["raw"])
    after = Augmented(source, 32, None, 1.0).__getitems__(keys)["raw"]
    changed = (before != after).any(1)
    share = changed.float().mean((1, 2))
    assert (share > 0.01).all()
    assert (share < 0.35).all()
    noise = normalize(after).permute(0, 2, 3, 1)[changed]
    assert noise.mean().abs() < 0.05
    assert noise.std() == pytest.approx(1, abs=0.05)


def test_mixing_is_timms_and_follows_from_the_step(under_test):  # noqa: F811
    batch = keyed(under_test).__getitems__([(0, index) for index in range(8)])
    mix = Mix(0.8, 1.0, 0.1, 12, seed=5)
    kinds = set()
    for step in range(8):
        found, again = mix(batch, step), mix(batch, step)
        assert torch.equal(found["raw"], again["raw"])
        assert torch.equal(found["label"], again["label"])
        assert torch.allclose(found["label"].sum(1), torch.ones(8))
        plain = to_unit(batch["raw"])
        kinds.add(bool((found["raw"] == plain).float().mean() > 0.1))  # cutmix keeps pixels
        np.random.seed(derive(5, "mix", step) % 2**32)
        timms = Mixup(0.8, 1.0, switch_prob=0.5, label_smoothing=0.1, num_classes=12)
        raw, label = timms(plain, batch["label"])
        assert torch.equal(raw, found["raw"])
        assert torch.equal(label, found["label"])
    assert kinds == {True, False}
    with pytest.raises(RunFailed, match="3 images per rank"):
        mix({key: value[:3] for key, value in batch.items()}, 0)


def test_repeated_augmentation_shows_each_image_three_times_under_different_epochs():
    sampler = BatchSampler(12, 12, 5, 0, repeats=3)
    for keys in sampler:
        images = [index for _, index in keys]
        assert all(images.count(index) == 3 for index in images)
    everything = [key for keys in sampler for key in keys]
    assert len(set(everything)) == len(everything)
    ranks = [list(BatchSampler(12, 12, 5, 0, repeats=3, rank=rank, world=2)) for rank in (0, 1)]
    assert [first + second for first, second in zip(*ranks, strict=True)] == list(sampler)


def test_the_moving_average_is_the_formula_and_is_what_is_tested(under_test):  # noqa: F811
    model = finetune.Classifier(under_test.encoder(), "mean", 12, settings("finetune", ema=0.9), 0)
    start = {name: value.clone() for name, value in model.state_dict().items() if not name.startswith("ema.")}
    assert not any(p.requires_grad for p in model.ema.parameters())
    with torch.no_grad():
        for parameter in [p for p in model.parameters() if p.requires_grad]:
            parameter.add_(1.0)
    model.after_step(1, 1)
    for name, value in model.tested.named_parameters():
        assert torch.allclose(value, start[name] + 0.1, atol=1e-6)
    assert model.tested is not model


def test_with_everything_on_a_stop_and_a_resume_change_nothing(under_test):  # noqa: F811
    on = settings("finetune", learning_rates=[1e-3], epochs=3, **ALL_ON)
    straight = finetune.evaluate(under_test, on, Runtime())
    assert [point["epoch"] for point in straight["values"]["by_epoch"]] == [1, 2, 3]
    assert straight["values"]["by_epoch"][-1]["val"] == straight["values"]["by_lr"]["0.001"]["val"]
    again, stop = replace(under_test, work=under_test.work / "again"), StopAt()
    stop.at = 4
    with pytest.raises(Interrupted):
        finetune.evaluate(again, on, Runtime(stop=stop, progress=stop))
    assert finetune.evaluate(again, on, Runtime()) == straight
    one, two = (torch.load(under.work / "lr-0.001" / "final.pt") for under in (under_test, again))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert any(key.startswith("ema.") for key in one)


def test_the_moving_average_of_two_ranks_is_that_of_one(tmp_path, cache):
    sets = (*SMALL, "protocols.finetune.ema=0.5", "protocols.finetune.learning_rates=[1e-3]", "protocols.finetune.epochs=1",
            "protocols.finetune.precision=fp32", "protocols.finetune.repeats=2", "protocols.finetune.erasing=0.5")  # fmt: skip
    grid = {
        "base": "beit",
        "scale": "smoke",
        "seeds": 1,
        "protocols": ["finetune"],
        "rows": [{"name": "a", "pretrain": False}],
    }
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid))
    plan = make_plan(load_grid(str(tmp_path / "grid.yaml"), sets=sets))
    found = []
    for label in ("one", "two"):
        store = Store(tmp_path / label)
        store.cache = cache
        prepare(plan, store)
        *before, last = plan.runs
        for name in before:
            execute(store, name, Runtime())
        if label == "one":
            execute(store, last, Runtime())
        else:
            run_as_two(store, cache, last)
        found.append(load_weights(store.run(last).work / "lr-0.001" / "final.pt"))
    one, two = found
    matrices = [key for key in one if key.startswith("ema.") and one[key].ndim > 1]
    assert matrices
    assert all(torch.allclose(one[key], two[key], atol=1e-4) for key in matrices)
