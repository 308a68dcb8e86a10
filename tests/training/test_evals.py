"""What each protocol measures, on which images, and that it chooses on held-out images only."""

from __future__ import annotations

import importlib
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.special import log_softmax

from mimbench import protocols
from mimbench.config.grid import load_grid
from mimbench.config.merge import read_yaml
from mimbench.config.schema import DataConfig, EncoderConfig
from mimbench.data.segmentation import Seeded, open_split
from mimbench.data.sources import source
from mimbench.errors import RunFailed, UserError
from mimbench.evals import attentive_probe, dense, finetune, heads, knn, linear_probe, segmentation
from mimbench.evals.common import WORST, EncoderUnderTest, at_edge, rate_flags
from mimbench.evals.features import extract_splits
from mimbench.evals.sweep import layer_decay
from mimbench.kinds import KINDS
from mimbench.models.encoder import tapped_blocks
from mimbench.parts import Encoded
from mimbench.runtime import Runtime
from mimbench.store.weights import save_weights

ROOT = Path(__file__).parents[2]
SMOKE = read_yaml(ROOT / "configs" / "scales" / "smoke.yaml")["protocols"]
SMALL = EncoderConfig(patch=4, dim=32, depth=2, heads=2)


@pytest.fixture
def under_test(tmp_path, cache):
    counts = {"labeled": 64, "test": 40, "val": 32}  # sorted, as spec.json has them
    without = EncoderUnderTest(SMALL, None, None, "mean", 0, DataConfig(), "shapes", counts, cache, tmp_path / "work")
    features = tmp_path / "features.pt"
    save_weights(extract_splits(without, Runtime()), features)
    return replace(without, features=features)


def settings(name, **changes):
    return {**protocols.load(name, SMOKE.get(name, {}), "test").settings, "precision": "fp32", **changes}


def test_a_fingerprint_depends_only_on_version_and_settings():
    first = protocols.load("knn", {}, "test")
    warm = {"temperature": 0.1}
    assert protocols.load("knn", {}, "elsewhere").fingerprint == first.fingerprint
    assert protocols.load("knn", {}, "test", warm).fingerprint != first.fingerprint
    assert protocols.load("knn", {}, "test", warm) == protocols.load("knn", warm, "test")
    assert replace(first, version=3).fingerprint != first.fingerprint


def test_every_protocol_that_trains_tries_at_least_three_learning_rates():
    for scale in sorted((ROOT / "configs" / "scales").glob("*.yaml")):
        if scale.stem == "paper":  # it has the published ones, of segmentation one
            continue
        stated = load_grid("ablations", scale=scale.stem).scale_settings
        for name in {"finetune", "segmentation", "linear_probe"} & set(stated):
            assert len(protocols.load(name, stated[name], "test").settings["learning_rates"]) >= 3


@pytest.mark.parametrize("name", protocols.PROTOCOLS)
def test_the_test_split_is_measured_once_and_chooses_nothing(under_test, name, monkeypatch):
    """With other test labels the same settings are chosen."""
    module = importlib.import_module(f"mimbench.evals.{name}")
    first = module.evaluate(under_test, settings(name), Runtime())
    if KINDS[name].reads_masks:
        original, opened = segmentation.open_split, []

        def counted(root, split, *rest):
            opened.append(split)
            return original(root, split, *rest)

        for user in (segmentation, dense):
            monkeypatch.setattr(user, "open_split", counted)
        module.evaluate(replace(under_test, work=under_test.work / "again"), settings(name), Runtime())
        assert sorted(opened) == ["labeled", "test", "val"]
        return
    images = EncoderUnderTest.images

    def shuffled(self, split):
        found = images(self, split)
        if split == "test":
            found.labels = found.labels[::-1].copy()
        return found

    monkeypatch.setattr(EncoderUnderTest, "images", shuffled)
    second = module.evaluate(replace(under_test, work=under_test.work / "again"), settings(name), Runtime())
    assert second["values"] == first["values"]


def test_no_two_splits_of_the_built_in_data_share_an_image(cache):
    seen = [
        {i.tobytes() for i in source("shapes").load(DataConfig(), split, cache).source}
        for split in ("train", "labeled", "val", "test")
    ]
    assert len(set.union(*seen)) == sum(map(len, seen))


def one_hot(labels, classes):
    return lambda index: torch.nn.functional.one_hot(labels[index], classes).float()


def test_probe_heads_trained_together_equal_heads_trained_alone():
    """Of one learning rate, one layer, and one half of the features: what `mean` and `class_token` are."""
    features, targets = torch.randn(3, 50, 8), one_hot(torch.randint(0, 4, (50,)), 4)
    both = settings("linear_probe", learning_rates=[0.01, 0.1])
    together = heads.train_heads(features, targets, linear_probe.reads(features), both, 0)
    alone = settings("linear_probe", learning_rates=[0.1])
    for pooling, part in ((0, features[1:2, :, :4]), (1, features[1:2, :, 4:]), (2, features[1:2])):
        (expected,) = heads.train_heads(part, targets, torch.ones(1, part.shape[-1]), alone, 0)
        found, read = together[1][1, pooling], heads.with_bias(linear_probe.reads(features))[pooling].bool()
        assert torch.allclose(found[read], expected[0, 0], atol=1e-5)
        assert not found[~read].any()


def test_the_probe_reaches_scipys_optimum_on_an_easy_problem():
    """Full-batch AdamW, long enough, reaches the loss that L-BFGS reaches."""
    from scipy.optimize import minimize

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 5)), rng.integers(0, 3, 60)

    def loss(flat):
        scores = np.c_[x, np.ones(60)] @ flat.reshape(6, 3)
        return -log_softmax(scores, axis=1)[np.arange(60), y].mean()

    best = minimize(loss, np.zeros(18), method="L-BFGS-B").fun
    long = settings("linear_probe", learning_rates=[0.05], epochs=600, batch=60, weight_decay=0.0)
    (head,) = heads.train_heads(
        torch.from_numpy(x).float()[None], one_hot(torch.from_numpy(y), 3), torch.ones(1, 5), long, 0
    )
    assert loss(head[0, 0].double().numpy().ravel()) == pytest.approx(best, abs=2e-3)


def test_nearest_neighbors_agree_with_a_loop():
    bank = torch.nn.functional.normalize(torch.randn(30, 6), dim=-1)
    queries, labels = torch.nn.functional.normalize(torch.randn(7, 6), dim=-1), torch.randint(0, 3, (30,))
    counts = [1, 5]
    found = knn.votes(queries, bank, labels, 3, counts, 0.07)
    for k, votes in zip(counts, found, strict=True):
        for query, vote in zip(queries, votes, strict=True):
            order = sorted(range(30), key=lambda i: -float(query @ bank[i]))[:k]
            expected = [sum(np.exp(float(query @ bank[i]) / 0.07) for i in order if labels[i] == c) for c in range(3)]
            assert np.allclose(vote.numpy(), expected, rtol=1e-3)


@pytest.mark.parametrize("protocol", [knn, linear_probe])
def test_predictions_do_not_depend_on_the_chunk_size(under_test, monkeypatch, protocol):
    frozen = settings(protocol.__name__.rpartition(".")[2])
    whole = protocol.evaluate(under_test, frozen, Runtime())
    monkeypatch.setattr(heads if protocol is linear_probe else protocol, "CHUNK", 7)
    assert protocol.evaluate(under_test, frozen, Runtime()) == whole


def test_an_optimum_at_the_edge_is_flagged():
    assert at_edge("learning rate", 0.1, [0.001, 0.01, 0.1]) == ["the best learning rate 0.1 is the highest tried"]
    assert at_edge("learning rate", 0.01, [0.001, 0.01, 0.1]) == []


def test_an_optimum_below_a_rate_that_diverged_is_not_at_the_edge():
    by_lr = {"0.01": {"val": 50.0}, "0.1": {"val": 60.0}, "1": {"val": WORST}}
    assert rate_flags(by_lr, 0.1) == ["diverged at learning rate 1"]
    assert rate_flags(by_lr, 0.01)[0] == "the best learning rate 0.01 is the lowest tried"


@pytest.mark.parametrize(("neighbors", "flags"), [([1, 5, 10], 0), ([5, 10], 1)])
def test_one_neighbor_is_not_flagged_as_an_edge(under_test, monkeypatch, neighbors, flags):
    def all_tie(queries, bank, labels, classes, counts, temperature):
        return torch.zeros(len(counts), len(queries), classes)

    monkeypatch.setattr(knn, "votes", all_tie)
    assert len(knn.evaluate(under_test, settings("knn", neighbors=neighbors), Runtime())["flags"]) == flags


def test_learning_rates_decay_from_the_head_to_the_patch_embedding(under_test):
    encoder = under_test.encoder()
    scale = layer_decay(encoder, 0.5)
    assert scale("head.weight") == scale("fc_norm.weight") == scale("model.decode_head.conv_seg.weight") == 1
    assert scale("encoder.body.blocks.1.mlp.fc1.weight") == 0.5
    assert scale("encoder.body.blocks.0.mlp.fc1.weight") == 0.25
    assert scale("encoder.body.patch_embed.proj.weight") == 0.125
    assert scale("model.backbone.encoder.body.patch_embed.proj.weight") == 0.125


def test_upernet_reads_the_same_blocks_as_in_beit():
    assert tapped_blocks(12) == (3, 5, 7, 11)
    assert tapped_blocks(24) == (7, 11, 15, 23)


def test_built_in_segmentation_data_hold_the_rendered_images_and_masks(under_test):
    root = source("shapes").segmentation_root(under_test.data, under_test.counts, under_test.cache)
    dataset = open_split(root, "val", segmentation.pipeline(False, settings("segmentation"), 32, fixed_size=True))
    assert len(dataset) == 32
    assert dataset.metainfo["classes"][0] == "ground"
    sample = dataset[3]
    label = sample["data_samples"].gt_sem_seg.data[0].numpy()
    assert np.array_equal(label, source("shapes").masks(under_test.data, "val", under_test.cache)[3])
    image = sample["inputs"].numpy()[::-1]  # mmcv reads BGR
    assert np.array_equal(
        image.transpose(1, 2, 0), source("shapes").load(under_test.data, "val", under_test.cache).source[3]
    )


@pytest.fixture
def scenes(tmp_path, monkeypatch):
    """ADE20K's layout as it is published: images of many sizes, and no masks of the test images."""
    rng = np.random.default_rng(2)
    root = tmp_path / "scenes"
    for split, count in (("training", 60), ("validation", 7)):
        for kind in ("images", "annotations"):
            (root / kind / split).mkdir(parents=True)
        for index in range(count):
            shape = (int(rng.integers(28, 60)), int(rng.integers(28, 60)))
            for kind, array in (
                ("images", rng.integers(0, 256, (*shape, 3))),
                ("annotations", rng.integers(0, 4, shape)),
            ):
                suffix = "jpg" if kind == "images" else "png"
                Image.fromarray(array.astype(np.uint8)).save(root / kind / split / f"ADE_{index:04d}.{suffix}")
    (root / "classes.json").write_text('["wall", "sky", "tree"]')
    monkeypatch.setenv("MIMBENCH_DATA", str(tmp_path))
    return root


def _paths(dataset):
    return [dataset.get_data_info(index)["img_path"] for index in range(len(dataset))]


def test_without_public_test_masks_the_learning_rate_is_chosen_on_held_out_training_images(scenes):
    paths = {split: _paths(open_split(scenes, split, [])) for split in ("labeled", "val", "test")}
    assert {split: len(found) for split, found in paths.items()} == {"labeled": 57, "val": 3, "test": 7}
    assert all("/validation/" in path for path in paths["test"])
    assert all("/training/" in path for path in (*paths["labeled"], *paths["val"]))
    assert len({*paths["labeled"], *paths["val"]}) == 60
    few = _paths(open_split(scenes, "labeled", [], 10))
    assert set(few) < set(paths["labeled"])
    assert few != paths["labeled"][:10]  # of the whole folder, not of its first scenes
    with pytest.raises(UserError, match=r"scenes: test: .* 8 images"):
        open_split(scenes, "test", [], 8)


def test_class_names_identify_segmentation_data(scenes):
    before = source("scenes").segmentation_facts()
    (scenes / "classes.json").write_text('["wall", "sky", "tree", "sea"]')
    assert source("scenes").segmentation_facts() != before
    for text, words in (('["wall"', "not readable"), ('{"wall": 1}', "at least two"), ('["sky", "sky"]', "different")):
        (scenes / "classes.json").write_text(text)
        with pytest.raises(UserError, match=rf"classes\.json: .*{words}"):
            source("scenes").segmentation_facts()
    (scenes / "classes.json").unlink()
    with pytest.raises(UserError, match=r"scenes: no classes\.json, .* Write a list"):
        source("scenes").segmentation_facts()
    (scenes / "classes.txt").touch()
    with pytest.raises(UserError, match=r"classes\.txt lies there, which is not read"):
        source("scenes").segmentation_facts()
    (scenes / "objectInfo150.txt").touch()  # ADE20K itself
    assert source("scenes").segmentation_facts() != before


@pytest.mark.parametrize("resize", [None, [128, 32]])
def test_images_of_many_sizes_are_segmented(under_test, scenes, resize):
    counts = {"labeled": 32, "val": 3, "test": None}
    under_test = replace(under_test, segmentation_data="scenes", counts=counts)
    measured = segmentation.evaluate(under_test, settings("segmentation", resize=resize), Runtime())
    assert 0 <= measured["metrics"]["miou"] <= 100


def test_a_split_with_classes_of_its_own_can_be_sent_to_a_loader_process(under_test):
    root = source("shapes").segmentation_root(under_test.data, under_test.counts, under_test.cache)
    dataset = open_split(root, "labeled", segmentation.pipeline(True, settings("segmentation"), 32, fixed_size=True))
    sent = pickle.loads(pickle.dumps(Seeded(dataset, 3)))
    (here,), (there,) = (each.__getitems__([(0, 5)]) for each in (Seeded(dataset, 3), sent))
    assert torch.equal(here["inputs"], there["inputs"])
    assert sent.dataset.metainfo["classes"] == dataset.metainfo["classes"]


def test_the_mean_iou_equals_that_of_a_confusion_matrix(under_test, monkeypatch):
    # it gathers over ranks, and each has measured all images: they would count several times
    monkeypatch.setattr(segmentation.IoUMetric, "evaluate", None)
    root = source("shapes").segmentation_root(under_test.data, under_test.counts, under_test.cache)
    dataset = open_split(root, "test", segmentation.pipeline(False, settings("segmentation"), 32, fixed_size=True))
    model = segmentation.Segmenter(under_test.encoder(), 13, settings("segmentation"), 0, 32)
    measured = segmentation.measure(model.model, dataset, Runtime(), False)
    confusion = np.zeros((13, 13))
    model.eval()
    for index in range(len(dataset)):
        from mmengine.dataset import pseudo_collate

        batch = pseudo_collate([dataset[index]])
        with torch.inference_mode():
            predicted = model.model(**model.model.data_preprocessor(batch, False), mode="predict")[0].pred_sem_seg.data
        truth = dataset[index]["data_samples"].gt_sem_seg.data
        np.add.at(confusion, (truth.numpy().ravel(), predicted.numpy().ravel()), 1)
    hit = np.diag(confusion)
    with np.errstate(invalid="ignore"):
        iou = hit / (confusion.sum(0) + confusion.sum(1) - hit)
    assert measured["miou"] == pytest.approx(100 * np.nanmean(iou), abs=1e-6)
    assert measured["pixel_accuracy"] == pytest.approx(100 * hit.sum() / confusion.sum(), abs=0.01)


def test_images_larger_than_the_crop_are_segmented_by_a_sliding_window(under_test):
    """A 32 x 56 image at crop 32 and stride 21 takes three windows, averaged where they overlap."""
    from mmengine.dataset import pseudo_collate
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    model = segmentation.Segmenter(under_test.encoder(), 13, settings("segmentation"), 0, 32).eval()
    sample = SegDataSample(metainfo={"ori_shape": (32, 56), "img_shape": (32, 56)})
    sample.gt_sem_seg = PixelData(data=torch.zeros(1, 32, 56, dtype=torch.long))
    image = torch.randint(0, 255, (3, 32, 56), dtype=torch.uint8)
    network = model.model
    data = network.data_preprocessor(pseudo_collate([{"inputs": image, "data_samples": sample}]), False)
    with torch.inference_mode():
        logits = network(**data, mode="predict")[0].seg_logits.data
        total, count = torch.zeros(13, 32, 56), torch.zeros(1, 32, 56)
        for left in (0, 21, 24):
            window = data["inputs"][..., left : left + 32]
            total[..., left : left + 32] += network.encode_decode(window, [{"img_shape": (32, 32)}])[0]
            count[..., left : left + 32] += 1
    assert torch.allclose(logits, total / count, atol=1e-4)


def test_a_learning_rate_that_diverges_scores_worst_and_the_others_count(under_test, monkeypatch):
    rates = [0.001, 1e30]
    measured = finetune.evaluate(under_test, settings("finetune", learning_rates=rates, clip=None, epochs=4), Runtime())
    assert measured["values"]["chosen"]["lr"] == 0.001
    assert measured["values"]["by_lr"]["1e+30"]["val"] < 0
    assert measured["flags"] == ["the best learning rate 0.001 is the lowest tried", "diverged at learning rate 1e+30"]
    with pytest.raises(RunFailed, match="diverged at every learning rate: 1e\\+29, 1e\\+30"):
        finetune.evaluate(
            replace(under_test, work=under_test.work / "all"),
            settings("finetune", learning_rates=[1e29, 1e30], clip=None, epochs=4), Runtime(),
        )  # fmt: skip


def test_a_learning_rate_at_which_segmentation_diverges_scores_worst_and_the_others_count(under_test):
    chosen = settings("segmentation", learning_rates=[0.003, 1e30], clip=None, epochs=2)
    measured = segmentation.evaluate(under_test, chosen, Runtime())
    assert measured["values"]["by_lr"]["1e+30"]["val"] == WORST
    assert measured["values"]["chosen"]["lr"] == 0.003
    assert "diverged at learning rate 1e+30" in measured["flags"]


@pytest.mark.parametrize("protocol", ["segmentation", "segmentation_linear", "segmentation_knn"])
def test_one_training_image_with_a_mask_is_enough_to_run(under_test, scenes, protocol):
    under_test = replace(under_test, segmentation_data="scenes", counts={"labeled": 1, "val": 3, "test": None})
    module = importlib.import_module(f"mimbench.evals.{protocol}")
    assert 0 <= module.evaluate(under_test, settings(protocol), Runtime())["metrics"]["miou"] <= 100


def test_a_probe_at_absurd_rates_is_flagged_as_diverged(under_test):
    measured = linear_probe.evaluate(under_test, settings("linear_probe", learning_rates=[0.01, 1e6, 1e30]), Runtime())
    assert measured["values"]["chosen"]["lr"] == 0.01
    assert "diverged at learning rate 1e+06, 1e+30" in measured["flags"]
    attentive = settings("attentive_probe", learning_rates=[0.001, 1e30], epochs=4)
    measured = attentive_probe.evaluate(under_test, attentive, Runtime())
    assert measured["values"]["chosen"]["lr"] == 0.001
    assert measured["flags"] == ["the best learning rate 0.001 is the lowest tried", "diverged at learning rate 1e+30"]


def test_the_pooling_that_the_probe_chose_is_what_fine_tuning_reads(under_test):
    """The logits follow from the class token, the patches, or both, and from nothing else."""
    raw = torch.rand(2, 3, 32, 32)
    tokens = torch.randn(2, 65, 32)
    for pooling, moved in (("mean", slice(1, None)), ("class_token", slice(0, 1)), ("both", slice(None))):
        model = finetune.Classifier(under_test.encoder(), pooling, 12, settings("finetune"), 0).eval()
        last = model.encoder.depth - 1

        def logits(value, model=model, last=last):
            model.encoder.forward = lambda image, taps: Encoded(value[:, 1:], value[:, 0], None, {last: value})
            return model.logits(raw)

        changed = tokens.clone()
        changed[:, moved] += 1 + torch.rand_like(changed[:, moved])
        assert not torch.allclose(logits(changed), logits(tokens))
        kept = tokens + 0
        kept[:, [i for i in range(65) if i not in range(65)[moved]]] = 7.0
        assert torch.equal(logits(kept), logits(tokens))


def test_attentive_heads_trained_together_equal_heads_trained_alone(under_test):
    """The rates of a schedule scale with its highest one: heads of the same rate."""
    encoder, images = under_test.encoder(), {"raw": torch.rand(6, 3, 32, 32), "label": torch.arange(6), "share": 1 / 6}
    many = attentive_probe.AttentiveProbe(encoder, 3, (0, 1), 12, 0)
    alone = attentive_probe.AttentiveProbe(encoder, 1, (1,), 12, 0)
    for model in (many, alone):
        model(images).backward()
    for found, expected in zip(many.heads[2][1].parameters(), alone.heads[0][0].parameters(), strict=True):
        assert torch.equal(found.grad, expected.grad)


def test_an_attentive_head_is_torchs_attention_within_a_prenorm_block():
    head = attentive_probe.AttentiveHead(16, 4, 5)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    theirs = torch.nn.MultiheadAttention(16, 4, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([head.q.weight, head.kv.weight]))
        theirs.in_proj_bias.copy_(torch.cat([head.q.bias, head.kv.bias]))
        theirs.out_proj.load_state_dict(head.proj.state_dict())
        tokens = torch.randn(3, 7, 16)
        keys = head.norm_tokens(tokens)
        x = head.query.expand(3, 1, -1)
        x = x + theirs(x, keys, keys)[0]
        x = x + head.mlp(head.norm_pooled(x))
        expected = head.head(head.norm_out(x))[:, 0]
        assert torch.allclose(head(tokens), expected, atol=1e-5)


def test_the_encoder_of_a_frozen_protocol_does_not_change(under_test):
    before = {k: v.clone() for k, v in under_test.encoder().state_dict().items()}
    encoder = under_test.encoder()
    model = attentive_probe.AttentiveProbe(encoder, 2, (0, 1), 12, 0)
    assert [n for n, p in model.named_parameters() if p.requires_grad and "encoder" in n] == []
    model({"raw": torch.rand(2, 3, 32, 32), "label": torch.tensor([0, 1]), "share": 0.5}).backward()
    assert all(torch.equal(before[k], v) for k, v in encoder.state_dict().items())


def test_pixels_of_each_class_are_counted_by_patch():
    labels = torch.randint(0, 4, (2, 8, 12))
    labels[0, :4, :4] = 255
    found = dense.class_pixels(labels, 4, 4)
    assert found.shape == (2 * 2 * 3, 4)
    for index in range(12):
        image, row, column = index // 6, index % 6 // 3, index % 3
        patch = labels[image, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        assert found[index].tolist() == [(patch == c).sum().item() for c in range(4)]


def test_the_score_on_patches_is_the_miou_of_their_pixels():
    labels, predicted = torch.randint(0, 3, (2, 8, 8)), torch.randint(0, 3, (8,))
    painted = predicted.view(2, 2, 2).repeat_interleave(4, 1).repeat_interleave(4, 2)
    ious = [((painted == c) & (labels == c)).sum() / ((painted == c) | (labels == c)).sum() for c in range(3)]
    found = dense.patch_miou(predicted, dense.class_pixels(labels, 4, 3))
    assert found == pytest.approx(100 * torch.stack(ious).mean().item(), abs=1e-4)


def test_linear_segmentation_is_tested_by_the_means_of_upernet(under_test):
    """Full-resolution scores through mmsegmentation: the class of most pixels, predicted everywhere, has its IoU."""
    found = dense.Dense(under_test, settings("segmentation_linear"), Runtime())
    ground = lambda features: torch.nn.functional.one_hot(torch.zeros(len(features), dtype=torch.int64), 13).float()
    measured = found.test(0, ground)
    masks = source("shapes").masks(under_test.data, "test", under_test.cache)[:40]
    assert measured["pixel_accuracy"] == pytest.approx(100 * (masks == 0).mean(), abs=0.01)
    assert measured["detail"]["per_class"]["ground"] == pytest.approx(100 * (masks == 0).mean(), abs=0.01)


@pytest.mark.parametrize("protocol", ["segmentation_linear", "segmentation_knn"])
@pytest.mark.parametrize("resize", [None, [128, 32]])
def test_images_of_many_sizes_are_segmented_on_frozen_features(under_test, scenes, protocol, resize):
    counts = {"labeled": 32, "val": 3, "test": None}
    under_test = replace(under_test, segmentation_data="scenes", counts=counts)
    module = importlib.import_module(f"mimbench.evals.{protocol}")
    measured = module.evaluate(under_test, settings(protocol, resize=resize), Runtime())
    assert 0 <= measured["metrics"]["miou"] <= 100
    assert set(measured["values"]["per_class"]) == {"wall", "sky", "tree"}


def test_segmentation_reads_the_data_set_that_it_names(under_test):
    """Not that of the labels: the trial draw beside the published one."""
    under_test = replace(under_test, segmentation_data="shapes-trial")
    root = source("shapes-trial").segmentation_root(under_test.data, under_test.counts, under_test.cache)
    shown = np.asarray(Image.open(next((root / "images" / "test").glob("*_000000.png"))))
    drawn = {n: source(n).load(under_test.data, "test", under_test.cache).source[0] for n in ("shapes", "shapes-trial")}
    assert np.array_equal(shown, drawn["shapes-trial"])
    assert not np.array_equal(shown, drawn["shapes"])
    assert source("shapes").segmentation_facts() != source("shapes-trial").segmentation_facts()


@pytest.mark.parametrize("name", ["linear_probe", "segmentation_linear", "attentive_probe"])
def test_a_protocol_whose_heads_all_diverged_fails(under_test, name):
    module = importlib.import_module(f"mimbench.evals.{name}")
    with pytest.raises(RunFailed, match="diverged at every learning rate"):
        module.evaluate(under_test, settings(name, learning_rates=[1e29, 1e30], epochs=4), Runtime())


def test_patches_without_a_label_teach_nothing(under_test, monkeypatch):
    """Not even where a whole batch has none."""
    original = dense.class_pixels

    def sparse(labels, patch, classes):
        found = original(labels, patch, classes)
        found[3:] = 0
        return found

    monkeypatch.setattr(dense, "class_pixels", sparse)
    measured = importlib.import_module("mimbench.evals.segmentation_linear").evaluate(
        under_test, settings("segmentation_linear", learning_rates=[0.01, 0.03], batch=2), Runtime()
    )
    assert measured["values"]["by_lr"]["0.01"]["val"] >= 0
