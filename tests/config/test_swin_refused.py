"""What a Swin cannot do is refused while planning."""

from __future__ import annotations

import pytest
from grids import error_of

SWIN = {"name": "swin", "base": "simmim_swin"}
REFUSED = {
    "class token": ({"encoder": {"class_token": True}}, ["encoder.class_token: the encoder type 'swin' needs false"]),
    "positions": ({"encoder": {"positions": "learned"}}, ["encoder.positions", "needs \"none\""]),
    "relative positions": ({"encoder": {"relative_positions": "shared"}}, ["encoder.relative_positions", "needs \"none\""]),
    "causal": ({"encoder": {"attention": "causal"}}, ["encoder.attention", "needs \"full\""]),
    "layer scale": ({"encoder": {"layer_scale": 0.1}}, ["encoder.layer_scale", "needs null"]),
    "registers": ({"encoder": {"registers": 2}}, ["encoder.registers", "needs 0"]),
    "drop": ({"encoder": {"masking": "drop"}}, ["encoder.masking: 'drop' leaves no grid", "use 'token'"]),
    "stages": ({"encoder": {"stages": [2, 2]}}, ["encoder.stages", "add up to depth (2), not [2, 2]"]),
    "no stages": ({"encoder": {"stages": []}}, ["encoder.stages", "add up to depth (2)"]),
    "no window": ({"encoder": {"window": None}}, ["encoder.window: missing", "`window: 4`"]),
    "window": ({"encoder": {"window": 3}}, ["encoder.window: 3 does not divide the last stage's grid of 8 x 8"]),
    "too many stages": ({"encoder": {"depth": 4, "stages": [1, 1, 1, 1]}}, ["encoder.heads: 2 is the last stage's", "multiple of 8"]),
    "odd patch": ({"encoder": {"patch": 1}}, ["encoder.patch: 1 is the last stage's", "multiple of 2"]),
    "masker without whole cells": ({"masker": {"cell": 3}},
        ["masker 'random' fails in this size: cells of 3 x 3 patches do not tile a grid of 8 x 8; cell can be 1, 2, 4, 8."]),
    "window of a ViT": ({"base": "beit", "encoder": {"window": 4}}, ["encoder.window: only the encoder type 'swin' has it"]),
    "small views": (
        {"views": {"a": {"masked": True}, "b": {"share": 0.5, "masked": False}}},
        ["share 0.5", "a Swin's windows need share 1"]),
    "blocks of an earlier stage": (
        {"tokenizer": {"type": "latent", "layers": 2}, "loss": "mse", "teacher": {"momentum": 0.9}},
        ["tokenizer 'latent' reads block 0", "allowed: blocks 1 to 1"]),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_what_a_swin_cannot_do_is_refused_while_planning(tmp_path, changes, said):
    message = error_of(tmp_path, rows=[{**SWIN, **changes}])
    assert all(words in message for words in said), message


def test_a_head_that_reads_maps_of_one_width_is_refused(tmp_path):
    sets = ("protocols.segmentation.head=setr_pup",)
    message = error_of(tmp_path, *sets, rows=[SWIN], protocols=["segmentation"])
    assert "setr_pup" in message
    assert "--set protocols.segmentation.head=upernet" in message
