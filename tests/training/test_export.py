"""Encoders that leave: timm, transformers and our own route load them and compute the same."""

from __future__ import annotations

import json

import pytest
import timm
import torch
import transformers
from safetensors.torch import save_file
from test_layouts import as_theirs, close, images, loaded, shaken

from mimbench.config.schema import EncoderConfig
from mimbench.errors import UserError
from mimbench.models.encoder import make_encoder
from mimbench.models.export import FORMS

SMALL = {"patch": 4, "dim": 32, "depth": 2, "heads": 2}
ENCODERS = {
    "BEiT": {},
    "MAE": {"masking": "drop", "positions": "sincos"},
    "SimMIM": {"type": "beit", "positions": "none", "relative_positions": "shared", "layer_scale": 0.1},
    "BEiT, fine-tuned": {
        "type": "beit", "positions": "none", "relative_positions": "per_block", "layer_scale": 0.1, "normalization": "half",
    },
    "BEiT, plain ViT": {"type": "beit"},
    "DINOv2": {"layer_scale": 1e-5},
    "registers": {"registers": 3},
    "I-JEPA": {"class_token": False, "positions": "sincos"},
}  # fmt: skip


def exported(folder, form, config, encoder):
    state = {name.removeprefix("body."): tensor for name, tensor in encoder.state_dict().items()}
    made = FORMS[form](config, 16, state)
    save_file({name: tensor.contiguous() for name, tensor in made.tensors.items()}, folder / "model.safetensors")
    for name, content in made.files.items():
        (folder / name).write_text(json.dumps(content))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ENCODERS)
def test_an_exported_encoder_computes_the_same_wherever_it_is_loaded(kind, form, tmp_path):
    config = EncoderConfig(**{**SMALL, **ENCODERS[kind]})
    encoder = shaken(make_encoder(config, 16, 0))
    ours = as_theirs(encoder, images())
    exported(tmp_path, form, config, encoder)
    if form == "timm":
        theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
        assert theirs.default_cfg["mean"] == ([0.5] * 3 if config.normalization == "half" else [0.485, 0.456, 0.406])
        features = theirs.forward_features(images())
    elif form == "hf":
        theirs, notes = transformers.AutoModel.from_pretrained(tmp_path, output_loading_info=True)
        assert not notes["unexpected_keys"]
        assert all("pooler" in name for name in notes["missing_keys"])
        with torch.no_grad():
            features = theirs.eval()(images()).last_hidden_state
    if form != "safetensors":
        close(ours.patches, features[:, encoder.prefix :])
        if config.class_token:
            close(ours.cls, features[:, 0])
    again, report = loaded(tmp_path)
    assert report["newly_made"] == report["resized"] == []
    assert again.config.normalization == config.normalization
    close(as_theirs(again, images()).patches, ours.patches)


def test_causal_attention_survives_in_our_own_form(tmp_path):
    config = EncoderConfig(**SMALL, attention="causal", masking="none")
    encoder = shaken(make_encoder(config, 16, 0))
    exported(tmp_path, "safetensors", config, encoder)
    again, _ = loaded(tmp_path)
    close(as_theirs(again, images()).cls, as_theirs(encoder, images()).cls)


@pytest.mark.parametrize(
    ("form", "changes", "sentence"),
    [
        ("timm", {"attention": "causal", "masking": "none"}, "--to timm: its models have no causal attention"),
        (
            "timm",
            {"norm_eps": 1e-12},
            "--to timm: its LayerNorms have the epsilon 1e-06, not 1e-12; use hf or safetensors",
        ),
        (
            "timm",
            {"type": "swin", "stages": (1, 1), "window": 2, "positions": "none", "class_token": False},
            "--to timm: a Swin is exported to safetensors only",
        ),
        ("hf", {"positions": "none"}, "--to hf: transformers' ViT has positions"),
        ("hf", {"layer_scale": 0.1, "mlp_ratio": 2.5}, "--to hf: Dinov2Model's mlp_ratio is an integer, not 2.5"),
    ],
)
def test_what_a_library_does_not_have_is_refused(form, changes, sentence, tmp_path):
    config = EncoderConfig(**{**SMALL, **changes})
    with pytest.raises(UserError, match=sentence):
        exported(tmp_path, form, config, make_encoder(config, 16, 0))
