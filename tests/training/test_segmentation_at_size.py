"""Segmentation at other sizes than the pre-training's, with SETR-PUP, and tested at several scales."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mmseg
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmseg.models import build_segmentor
from mmseg.utils import register_all_modules
from test_evals import SMALL, settings, under_test  # noqa: F401

from mimbench.config.schema import EncoderConfig
from mimbench.data.segmentation import open_split
from mimbench.data.sources import source
from mimbench.evals import segmentation, segmentation_linear
from mimbench.evals.segmentation_heads import segmentor
from mimbench.models.encoder import make_encoder
from mimbench.runtime import Runtime
from mimbench.store.weights import save_weights

RELATIVE = EncoderConfig(type="beit", patch=4, dim=32, depth=2, heads=2, positions="none", relative_positions="shared")
SETR = {"head": "setr_pup", "learning_rates": [0.003], "epochs": 1, "batch": 8, "channels": 8, "auxiliary_channels": 8}


def test_setr_pup_has_the_tensors_of_mmsegmentations_configuration_for_ade20k():
    register_all_modules(init_default_scope=True)
    folder = Path(mmseg.__file__).parent / ".mim" / "configs" / "setr"
    config = Config.fromfile(folder / "setr_vit-l_pup_8xb2-160k_ade20k-512x512.py").model
    config.backbone.update(num_layers=1, out_indices=(0, 0, 0, 0), init_cfg=None, embed_dims=1024)
    theirs = build_segmentor(config)
    chosen = {**settings("segmentation"), "head": "setr_pup", "channels": 256, "auxiliary_channels": 256}
    ours = segmentor((1024,) * 4, 150, {**chosen, "first_class_weight": 1.0}, 512)
    shapes = [
        {key: value.shape for key, value in model.state_dict().items() if "head" in key} for model in (theirs, ours)
    ]
    assert shapes[0] == shapes[1]
    assert len(shapes[0]) > 50
    assert (ours.test_cfg.stride, ours.test_cfg.crop_size) == (theirs.test_cfg.stride, theirs.test_cfg.crop_size)
    for one, two in zip(
        [ours.decode_head, *ours.auxiliary_head], [theirs.decode_head, *theirs.auxiliary_head], strict=True
    ):
        assert (one.in_index, one.loss_decode.loss_weight) == (two.in_index, two.loss_decode.loss_weight)
        assert [m.scale_factor for m in one.modules() if hasattr(m, "scale_factor")] == [
            m.scale_factor for m in two.modules() if hasattr(m, "scale_factor")
        ]


@pytest.mark.parametrize("crop", [16, 48])
def test_setr_pup_is_trained_and_tested_at_a_crop_of_its_own(under_test, tmp_path, crop):  # noqa: F811
    weights = tmp_path / "weights.pt"
    save_weights(make_encoder(SMALL, 32, 5, masked=False).state_dict(), weights)
    chosen = settings(
        "segmentation", **SETR, crop=crop, decay="linear", steps=3, test_ratios=[0.5, 1.0], test_flip=True
    )
    measured = segmentation.evaluate(replace(under_test, weights=weights), chosen, Runtime())
    assert 0 <= measured["metrics"]["miou"] <= 100
    assert measured["images"] == 3 * 8


def test_heads_on_frozen_patches_take_a_crop_of_their_own_too(under_test):  # noqa: F811
    measured = segmentation_linear.evaluate(under_test, settings("segmentation_linear", crop=16), Runtime())
    assert 0 <= measured["metrics"]["miou"] <= 100


def test_a_mirrored_test_averages_the_probabilities_of_both_views(under_test):  # noqa: F811
    chosen = settings("segmentation", **SETR, test_flip=True)
    model = segmentation.Segmenter(under_test.encoder(), 13, chosen, 0, 32).eval()
    with torch.no_grad():  # scores that depend on the side
        for parameter in model.model.decode_head.parameters():
            parameter.normal_(std=0.5)
    root = source("shapes").segmentation_root(under_test.data, under_test.counts, under_test.cache)
    plain = open_split(root, "test", segmentation.pipeline(False, chosen, 32, fixed_size=True), 12)
    both = open_split(root, "test", segmentation.multi_scale_pipeline(chosen), 12)
    found = segmentation.measure(model.model, both, Runtime(), False, several=True)["miou"]
    confusion = np.zeros((13, 13))
    with torch.no_grad():
        for index in range(12):
            data = model.model.data_preprocessor(pseudo_collate([plain[index]]), False)
            metas = [sample.metainfo for sample in data["data_samples"]]
            one, two = (model.model.inference(x, metas).softmax(1) for x in (data["inputs"], data["inputs"].flip(3)))
            predicted = (one + two.flip(3)).argmax(1)[0]
            label = plain[index]["data_samples"].gt_sem_seg.data[0]
            np.add.at(confusion, (label.numpy().ravel(), predicted.numpy().ravel()), 1)
    union = confusion.sum(0) + confusion.sum(1) - confusion.diagonal()
    assert found == pytest.approx(
        100 * np.mean((confusion.diagonal() / np.where(union, union, 1))[union > 0]), abs=0.05
    )
    alone = segmentation.measure(model.model, plain, Runtime(), False)["miou"]
    assert alone != pytest.approx(found, abs=1e-3)


def test_one_scale_through_the_averaging_is_the_plain_test(under_test):  # noqa: F811
    chosen = settings("segmentation", **SETR)
    model = segmentation.Segmenter(under_test.encoder(), 13, chosen, 0, 32).eval()
    root = source("shapes").segmentation_root(under_test.data, under_test.counts, under_test.cache)
    plain = open_split(root, "test", segmentation.pipeline(False, chosen, 32, fixed_size=True), 12)
    averaged = open_split(root, "test", segmentation.multi_scale_pipeline(chosen), 12)
    one, two = (segmentation.measure(model.model, data, Runtime(), False, several=several)
                for data, several in ((plain, False), (averaged, True)))  # fmt: skip
    assert one == two
