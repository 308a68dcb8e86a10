"""Checkpoints as other people's code saves them: the encoder infers its architecture and computes what theirs does."""

from __future__ import annotations

import json
import re

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from timm.models.beit import Beit
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer

from mimbench.errors import UserError
from mimbench.models.encoder import make_encoder
from mimbench.models.foreign import load_into, read_checkpoint
from mimbench.models.guesses import guesses
from mimbench.models.pixels import renormalized
from mimbench.models.released import locate

SIZE = 16
HF = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIZE,
    "patch_size": 4,
    "hidden_dropout_prob": 0.0,
}
TIMM = {"img_size": SIZE, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 3}


def images(size=SIZE):
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def shaken(model):
    """With every weight of a size that shows."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            around = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            parameter.copy_(around + 0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def loaded(path, size=SIZE, **stated):
    """The encoder of a checkpoint, and what loading it did."""
    found, described = locate(str(path))
    checkpoint = read_checkpoint(found)
    config = checkpoint.encoder_config(described, stated)
    config.check("test")
    encoder = make_encoder(config, size, 0, masked=False)
    return encoder.eval(), load_into(encoder, checkpoint)


def as_theirs(encoder, pixels):
    """What the encoder does with images that are normalized as its own training normalized them."""
    assert torch.equal(renormalized(pixels, "imagenet"), pixels)
    body = encoder.config.normalization
    back = renormalized(torch.zeros(1, 3, 1, 1), body)
    scale = renormalized(torch.ones(1, 3, 1, 1), body) - back
    with torch.no_grad():
        return encoder((pixels - back) / scale, taps=(encoder.depth - 1,))


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


HUGGING_FACE = {
    "BEiT, masked": lambda: transformers.BeitForMaskedImageModeling(
        transformers.BeitConfig(
            **HF, vocab_size=8, use_mask_token=True, use_shared_relative_position_bias=True, drop_path_rate=0.0
        )
    ),
    "BEiT, per block": lambda: transformers.BeitModel(
        transformers.BeitConfig(**HF, use_relative_position_bias=True, use_mean_pooling=False, drop_path_rate=0.0)
    ),
    "MAE": lambda: transformers.ViTMAEForPreTraining(
        transformers.ViTMAEConfig(
            **HF, mask_ratio=0.0, decoder_hidden_size=16, decoder_num_attention_heads=2, decoder_num_hidden_layers=1
        )
    ),
    "ViT": lambda: transformers.ViTModel(transformers.ViTConfig(**HF)),
    "DINOv2": lambda: transformers.Dinov2Model(transformers.Dinov2Config(**HF, mlp_ratio=2)),
    "DINOv2 with registers": lambda: transformers.Dinov2WithRegistersModel(
        transformers.Dinov2WithRegistersConfig(**HF, mlp_ratio=2, num_register_tokens=3)
    ),
}


@pytest.mark.parametrize("kind", HUGGING_FACE)
def test_a_folder_by_transformers_computes_the_same(tmp_path, kind):
    theirs = shaken(HUGGING_FACE[kind]())
    theirs.save_pretrained(tmp_path)
    pixels = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(pixels))
    assert locate(f"hf:{tmp_path}") == locate(str(tmp_path))
    encoder, _ = loaded(tmp_path)
    assert encoder.config.normalization == "half"
    assert encoder.config.norm_eps == theirs.config.layer_norm_eps
    backbone = getattr(theirs, "beit", getattr(theirs, "vit", theirs))
    with torch.no_grad():
        if kind == "MAE":
            noise = torch.arange(16.0).expand(2, -1)  # keeps the order of the patches
            expected = backbone(images(), noise=noise).last_hidden_state
        else:
            expected = backbone(images()).last_hidden_state
        if kind == "BEiT, masked":
            expected = theirs.layernorm(expected)
    ours = as_theirs(encoder, images())
    registers = getattr(theirs.config, "num_register_tokens", 0)
    close(ours.cls, expected[:, 0])
    close(ours.patches, expected[:, 1 + registers :])


def test_without_its_config_a_file_by_transformers_is_read_by_its_names(tmp_path):
    theirs = shaken(HUGGING_FACE["ViT"]())
    theirs.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "mine.safetensors")
    with pytest.raises(UserError, match="no tensor says how many heads share its 32 dimensions"):
        loaded(tmp_path / "mine.safetensors")
    encoder, _ = loaded(tmp_path / "mine.safetensors", heads=2)
    assert encoder.config.norm_eps == 1e-12
    with torch.no_grad():
        close(as_theirs(encoder, images()).cls, theirs(images()).last_hidden_state[:, 0])


def vit(**more):
    return shaken(VisionTransformer(**{**TIMM, **more}))


def beit(**more):
    return shaken(Beit(**{**TIMM, "init_values": 0.1, "global_pool": "token", "use_abs_pos_emb": False, **more}))


def renamed(state, *rules):
    for pattern, replacement in rules:
        state = {re.sub(pattern, replacement, name): tensor for name, tensor in state.items()}
    return state


def with_more(state, **shapes):
    """Beside the encoder, what such files hold too."""
    return {**state, **{name.replace("__", "."): torch.ones(shape) for name, shape in shapes.items()}}


MODULE, BACKBONE = (r"^", "module."), (r"^", "module.backbone.")
INDEX = {"rel_pos_bias__relative_position_index": (17, 17)}
# name -> the model of timm that computes the same, and the official file, made from its state
OFFICIAL = {
    "timm ViT": (vit, lambda s: s),
    "BEiT, masked": (
        lambda: beit(use_shared_rel_pos_bias=True),
        lambda s: {"model": with_more(s, mask_token=(1, 1, 32), lm_head__weight=(8, 32), **INDEX)},
    ),
    "BEiT, fine-tuned": (lambda: beit(use_rel_pos_bias=True, global_pool="avg"), lambda s: {"module": s}),
    "BEiT, plain ViT": (
        lambda: beit(use_abs_pos_emb=True, init_values=None),
        lambda s: {"model": with_more(s, mask_token=(1, 1, 32), lm_head__weight=(8, 32))},
    ),
    "BEiT-2": (
        lambda: beit(use_shared_rel_pos_bias=True, init_values=1e-5),
        lambda s: {"model": with_more(s, cls_pt_layers__0__norm1__weight=(32,), mask_token=(1, 1, 32), **INDEX)},
    ),
    "MAE, full": (
        vit,
        lambda s: {
            "model": with_more(
                s, mask_token=(1, 1, 16), decoder_embed__weight=(16, 32), decoder_blocks__0__norm1__bias=(16,)
            )
        },
    ),
    "MAE, fine-tuned": (lambda: vit(global_pool="avg"), lambda s: {"model": s, "epoch": 3}),
    "SimMIM": (
        lambda: beit(use_shared_rel_pos_bias=True),
        lambda s: {
            "model": with_more(
                renamed(s, (r"^", "encoder.")), decoder__0__weight=(48, 32, 1, 1), encoder__mask_token=(1, 1, 32)
            )
        },
    ),
    "DINO": (
        vit,
        lambda s: {"student": {}, "teacher": with_more(renamed(s, (r"^", "backbone.")), head__mlp__0__weight=(9, 32))},
    ),
    "iBOT": (vit, lambda s: {"teacher": renamed(s, BACKBONE), "student": renamed(s, BACKBONE)}),
    "DINOv2": (
        lambda: vit(init_values=1e-5, num_classes=0),
        lambda s: {
            "teacher": renamed(with_more(s, mask_token=(1, 32)), (r"^blocks\.", "blocks.0."), (r"^", "backbone."))
        },
    ),
    "MoCo v3": (
        vit,
        lambda s: {
            "state_dict": renamed(s, (r"^", "module.base_encoder.")) | renamed(s, (r"^", "module.momentum_encoder."))
        },
    ),
    "I-JEPA": (
        lambda: vit(class_token=False, global_pool="", num_classes=0),
        lambda s: {
            "encoder": {},
            "target_encoder": renamed(s, MODULE),
            "predictor": {"module.predictor_norm.weight": torch.ones(3)},
        },
    ),
    "timm, DeiT III": (lambda: vit(no_embed_class=True, init_values=1e-6), lambda s: s),
    "timm, registers": (lambda: vit(no_embed_class=True, reg_tokens=4, init_values=1e-5), lambda s: s),
}


@pytest.mark.parametrize("kind", OFFICIAL)
def test_a_file_in_an_official_layout_computes_the_same(tmp_path, kind):
    make, as_official = OFFICIAL[kind]
    theirs, path = make(), tmp_path / "checkpoint.pth"
    torch.save(as_official(theirs.state_dict()), path)
    encoder, report = loaded(path, heads=2)
    pixels, prefix = images(), theirs.num_prefix_tokens
    ours = as_theirs(encoder, pixels)
    with torch.no_grad():
        normed, (raw,) = theirs.forward_intermediates(pixels, [1], output_fmt="NLC", return_prefix_tokens=True)
    patches, before = raw if isinstance(raw, tuple) else (raw, None)
    close(ours.taps[1][:, 1:], patches)
    close(ours.taps[1][:, 0], before[:, 0] if prefix else patches.mean(1))
    if kind in ("BEiT, fine-tuned", "MAE, fine-tuned"):
        assert report["newly_made"] == ["norm.weight", "norm.bias"]
    else:
        close(ours.patches, normed[:, prefix:])
        assert report["newly_made"] == []


def test_what_the_files_of_a_layout_were_trained_on_decides_the_normalization(tmp_path):
    found = {}
    for kind in ("BEiT, masked", "BEiT, plain ViT", "BEiT-2", "SimMIM", "MAE, full"):
        make, as_official = OFFICIAL[kind]
        torch.save(as_official(make().state_dict()), tmp_path / "file.pth")
        found[kind] = loaded(tmp_path / "file.pth", heads=2)[0].config.normalization
    assert found == {"BEiT, masked": "half", "BEiT, plain ViT": "imagenet", "BEiT-2": "imagenet", "SimMIM": "imagenet",
                     "MAE, full": "imagenet"}  # fmt: skip


def test_registers_of_the_official_dinov2_have_no_position_and_the_class_token_has(tmp_path):
    theirs = shaken(HUGGING_FACE["DINOv2 with registers"]())
    theirs.save_pretrained(tmp_path / "hf")
    hf, _ = loaded(tmp_path / "hf", normalization="imagenet")
    official = {}
    for name, tensor in load_file(tmp_path / "hf" / "model.safetensors").items():
        official[name] = tensor
    names = ((r"^embeddings\.patch_embeddings\.projection", "patch_embed.proj"), (r"^embeddings\.position_embeddings", "pos_embed"),
             (r"^embeddings\.", ""), (r"^encoder\.layer\.", "blocks."), (r"attention\.output\.dense", "attn.proj"),
             (r"layer_scale(\d)\.lambda1", r"ls\1.gamma"), (r"^layernorm", "norm"))  # fmt: skip
    official = renamed(official, *names)
    for block in range(2):
        for end in ("weight", "bias"):
            parts = [
                official.pop(f"blocks.{block}.attention.attention.{part}.{end}") for part in ("query", "key", "value")
            ]
            official[f"blocks.{block}.attn.qkv.{end}"] = torch.cat(parts)
    torch.save(official, tmp_path / "dinov2.pth")
    encoder, _ = loaded(tmp_path / "dinov2.pth", heads=2)
    assert encoder.config == hf.config
    with torch.no_grad():
        close(encoder(images()).patches, theirs(images()).last_hidden_state[:, 4:])


@pytest.mark.parametrize("kind", ["timm ViT", "BEiT, masked", "BEiT, fine-tuned", "timm, registers", "I-JEPA"])
def test_positions_are_resized_as_timm_resizes_them(tmp_path, kind):
    from timm.models import beit as of_beit
    from timm.models import vision_transformer as of_vit

    make, as_official = OFFICIAL[kind]
    theirs = make()
    torch.save(as_official(theirs.state_dict()), tmp_path / "small.pth")
    encoder, report = loaded(tmp_path / "small.pth", size=24, heads=2)
    state, module = theirs.state_dict(), of_beit if isinstance(theirs, Beit) else of_vit
    options = {"img_size": 24}
    if module is of_beit:
        shared = kind == "BEiT, masked"
        larger = beit(
            use_shared_rel_pos_bias=shared,
            use_rel_pos_bias=not shared,
            global_pool="token" if shared else "avg",
            **options,
        )
    elif kind == "timm, registers":
        larger = vit(no_embed_class=True, reg_tokens=4, init_values=1e-5, **options)
    elif kind == "I-JEPA":
        larger = vit(class_token=False, global_pool="", num_classes=0, **options)
    else:
        larger = vit(**options)
    larger.load_state_dict(module.checkpoint_filter_fn(dict(state), larger))
    with torch.no_grad():
        found = larger.forward_intermediates(images(24), [1], output_fmt="NLC", intermediates_only=True)[0]
    close(as_theirs(encoder, images(24)).taps[1][:, 1:], found)
    assert report["resized"]


def timm_state(name, **more):
    import timm

    return timm.create_model(name, pretrained=False, **more).state_dict()


REFUSED = {
    "EVA-02": (lambda: timm_state("eva02_tiny_patch14_224", img_size=28), "lacks blocks.0.mlp.fc1.weight|SwiGLU"),
    "SwiGLU": (
        lambda: {**vit().state_dict(), "blocks.0.mlp.fc1.weight": torch.ones(192, 32), "blocks.0.mlp.fc2.weight": torch.ones(32, 96)},
        r"its MLPs are gated \(SwiGLU\)",
    ),
    "official SwiGLU": (
        lambda: renamed(vit().state_dict(), (r"mlp\.fc1", "mlp.w12"), (r"mlp\.fc2", "mlp.w3")),
        r"its MLPs are gated \(SwiGLU\)",
    ),
    "ResNet": (lambda: {"conv1.weight": torch.ones(4, 3, 7, 7)}, "names of no known layout of a Vision Transformer"),
    "rotary": (lambda: {k: v for k, v in vit().state_dict().items() if k != "pos_embed"}, "has no positions that this encoder knows"),
    "CLIP": (lambda: vit(pre_norm=True).state_dict(), r"norm_pre\.weight|patch_embed\.proj\.bias"),
    "no biases": (lambda: vit(qkv_bias=False).state_dict(), r"lacks: blocks\.0\.attn\.qkv\.bias"),
    "one block wider": (
        lambda: {**vit().state_dict(), "blocks.1.mlp.fc1.bias": torch.ones(7)},
        r"has other shapes: blocks\.1\.mlp\.fc1\.bias \(7,\), not \(128,\)",
    ),
    "Swin": (
        lambda: SwinTransformer(img_size=28, embed_dim=8, depths=(1,), num_heads=(1,)).state_dict(),
        "is a Swin Transformer, which can be trained here but not read",
    ),
    "five channels": (lambda: vit(in_chans=5).state_dict(), "its images have 5 channels"),
    "two class tokens": (
        lambda: {**vit().state_dict(), "pos_embed": torch.ones(1, 18, 32)}, r"pos_embed \(1, 18, 32\) is of no square grid",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_another_architecture_is_refused_in_one_sentence(tmp_path, kind):
    make, words = REFUSED[kind]
    save_file(make(), tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=words) as caught:
        loaded(tmp_path / "other.safetensors", heads=2)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def guessed(path, **stated):
    found, described = locate(str(path))
    checkpoint = read_checkpoint(found)
    return guesses(checkpoint, checkpoint.encoder_config(described, stated), described, stated)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("BEiT, fine-tuned", ["normalization half is a guess", "BEiT-2 and SimMIM (imagenet) cannot be told apart"]),
        ("MAE, fine-tuned", ["normalization imagenet is a guess: nothing beside the tensors says"]),
        ("BEiT-2", []),
        ("SimMIM", []),
    ],
)
def test_a_normalization_that_nothing_says_is_a_guess_until_it_is_stated(tmp_path, kind, words):
    make, as_official = OFFICIAL[kind]
    torch.save(as_official(make().state_dict()), tmp_path / "file.pth")
    said = " ".join(guessed(tmp_path / "file.pth", heads=2))
    for word in words:
        assert word in said
    assert bool(words) == bool(said) == ("`encoder: {normalization: ...}`" in said)
    assert guessed(tmp_path / "file.pth", heads=2, normalization="imagenet") == []


def test_heads_that_no_tensor_says_are_a_guess(tmp_path):
    torch.save(vit(embed_dim=64).state_dict(), tmp_path / "file.pth")
    (said,) = guessed(tmp_path / "file.pth", normalization="half")
    assert said.startswith("heads 1 is a guess: 64 dimensions each, for no tensor says it; state the right one")


def test_a_folder_by_transformers_without_its_processor_leaves_the_normalization_a_guess(tmp_path):
    shaken(HUGGING_FACE["ViT"]()).save_pretrained(tmp_path)
    (said,) = guessed(tmp_path)
    assert "normalization imagenet is a guess" in said
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}))
    assert guessed(tmp_path) == []


def test_heads_that_contradict_the_config_or_the_tensors_are_refused(tmp_path):
    shaken(HUGGING_FACE["ViT"]()).save_pretrained(tmp_path / "hf")
    with pytest.raises(UserError, match=r"states `encoder: \{heads: 4\}`, but its config .* says 2\."):
        loaded(tmp_path / "hf", heads=4)
    torch.save(beit(use_rel_pos_bias=True).state_dict(), tmp_path / "beit.pth")
    with pytest.raises(
        UserError, match=r"states `encoder: \{heads: 4\}`, but its table of relative positions says 2\."
    ):
        loaded(tmp_path / "beit.pth", heads=4)
