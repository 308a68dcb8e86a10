"""Swin: against timm and transformers, with masks; what stages give to the protocols; what is refused."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch
from commands import ROOT
from hypothesis import given
from hypothesis import strategies as st
from timm.models.swin_transformer import SwinTransformer
from torch.utils.flop_counter import FlopCounterMode
from transformers import SwinConfig, SwinForMaskedImageModeling

from mimbench import protocols, registry
from mimbench.config.merge import read_yaml
from mimbench.config.schema import DataConfig, EncoderConfig, as_spec
from mimbench.evals import attentive_probe, finetune, segmentation, segmentation_linear
from mimbench.evals.common import EncoderUnderTest
from mimbench.evals.features import extract_splits, offered_blocks
from mimbench.kinds import forward_flops
from mimbench.models.blocks import patchify
from mimbench.models.encoder import make_encoder
from mimbench.parts import Masks, PatchGrid
from mimbench.pretrain.optim import parameter_groups
from mimbench.runtime import Runtime

TWO = EncoderConfig(
    type="swin", patch=4, dim=64, depth=4, heads=2, stages=(2, 2), window=4, positions="none", class_token=False,
    norm_eps=1e-5,
)  # fmt: skip
FOUR = dataclasses.replace(TWO, patch=16, dim=64, depth=5, heads=8, stages=(1, 1, 2, 1), window=2)
SMOKE = read_yaml(ROOT / "configs" / "scales" / "smoke.yaml")["protocols"]


def shaken(model):
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))  # no bias stays zero, no scale one
    return model.eval()


def images(size=32):
    return torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(2))


def some_masks(cells=64):
    hidden = torch.rand(3, cells, generator=torch.Generator().manual_seed(3)) < 0.5
    predicted = hidden.flatten().nonzero().squeeze(1)
    return Masks(hidden, predicted, None, len(predicted))


def timms(ours, **changes):
    made = SwinTransformer(img_size=32, patch_size=2, window_size=4, embed_dim=32, depths=(2, 2), num_heads=(1, 2),
                           num_classes=0, **changes).eval()  # fmt: skip
    made.load_state_dict(ours.body.state_dict())
    return made


@torch.no_grad()
def test_without_masks_the_encoder_equals_timms_swin():
    ours = shaken(make_encoder(TWO, 32, 0, masked=False))
    assert sum(p.numel() for p in ours.parameters()) == 134_726
    theirs = timms(ours).forward_features(images())  # (B, 8, 8, 64)
    torch.testing.assert_close(ours(images()).patches, theirs.flatten(1, 2), atol=1e-5, rtol=1e-5)


def of_transformers(state):
    """transformers' tensors by timm's names, which merges patches at the beginning of the next stage."""
    rules = (
        (r"^swin\.embeddings\.patch_embeddings\.projection", "body.patch_embed.proj"),
        (r"^swin\.embeddings\.norm", "body.patch_embed.norm"),
        (r"^swin\.embeddings\.mask_token", "mask_token"), (r"^swin\.layernorm", "body.norm"), (r"^swin\.encoder\.", "body."),
        (r"attention\.relative_position_bias\.", "attn."), (r"attention\.o_proj", "attn.proj"), (r"layernorm_before", "norm1"),
        (r"layernorm_after", "norm2"), (r"layers\.(\d+)\.downsample", lambda m: f"layers.{int(m[1]) + 1}.downsample"),
    )  # fmt: skip
    found = {}
    for name, tensor in state.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        found[name] = tensor
    for name in [name for name in found if "attention.q_proj" in name]:
        joined = torch.cat([found.pop(name.replace("q_proj", f"{which}_proj")) for which in "qkv"])
        found[name.replace("attention.q_proj", "attn.qkv")] = joined
    return {name: tensor for name, tensor in found.items() if not name.startswith("decoder.")}


@torch.no_grad()
def test_predictions_and_loss_at_masked_cells_are_those_of_simmim_on_swin():
    config = SwinConfig(
        image_size=32, patch_size=2, embed_dim=32, depths=[2, 2], num_heads=[1, 2], window_size=4, encoder_stride=4
    )
    model, masks = shaken(SwinForMaskedImageModeling(config)), some_masks()
    raw = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    tokenizer, grid = registry.build("tokenizer", {"type": "pixels"}), PatchGrid.of(32, 4)
    normalized = (raw - tokenizer.mean) / tokenizer.std
    places = masks.masked.view(3, 8, 8).repeat_interleave(2, 1).repeat_interleave(2, 2)  # of the embedding
    output = model(pixel_values=normalized, bool_masked_pos=places.flatten(1))

    encoder = make_encoder(TWO, 32, 0).eval()
    encoder.load_state_dict(of_transformers(model.state_dict()))
    decoder = registry.build("decoder", {"type": "linear"})
    decoder.build(64, 48, grid)
    channels_last = torch.arange(48).view(3, 16).T.flatten()  # theirs are the planes of PixelShuffle
    decoder.project.weight.copy_(model.decoder[0].weight[channels_last].flatten(1))
    decoder.project.bias.copy_(model.decoder[0].bias[channels_last])
    prediction = decoder(encoder(normalized, masks), masks)
    theirs = patchify(output.reconstruction, 8, 8).flatten(0, 1)[masks.predicted]
    torch.testing.assert_close(prediction, theirs, atol=1e-5, rtol=1e-5)
    target = tokenizer({"raw": raw}, grid).flatten(0, 1)[masks.predicted]
    loss = registry.build("loss", {"type": "l1"})(prediction, target).sum() / masks.total
    torch.testing.assert_close(loss, output.loss, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_what_lies_within_masked_cells_is_not_seen():
    encoder, masks, seen = shaken(make_encoder(TWO, 32, 0)), some_masks(), images()
    pixels = masks.masked.view(3, 1, 8, 8).repeat_interleave(4, 2).repeat_interleave(4, 3)
    other = torch.where(pixels, torch.randn_like(seen), seen)
    assert torch.equal(encoder(seen, masks).patches, encoder(other, masks).patches)
    assert not torch.equal(encoder(seen).patches, encoder(other).patches)


@torch.no_grad()
def test_segmentation_reads_the_stages_at_their_own_size():
    two, four = shaken(make_encoder(TWO, 32, 0, masked=False)), shaken(make_encoder(FOUR, 64, 0, masked=False))
    assert [tuple(each.shape[1:]) for each in two.maps(images())] == [(32, 16, 16)] * 2 + [(64, 8, 8)] * 2
    shapes = [(8, 32, 32), (16, 16, 16), (32, 8, 8), (64, 4, 4)]
    assert [tuple(each.shape[1:]) for each in four.maps(images(64))] == shapes
    assert two.map_dims() == (32, 32, 64, 64)
    assert four.map_dims() == (8, 16, 32, 64)
    assert (two.tapped(), four.tapped()) == ((1, 1, 3, 3), (0, 1, 3, 4))
    for theirs, ours in zip(
        timms(two).forward_intermediates(images(), intermediates_only=True), two.maps(images())[1::2], strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_tap_of_an_earlier_stage_is_its_mean_over_each_cell_followed_by_zeros():
    encoder = shaken(make_encoder(TWO, 32, 0, masked=False))
    taps, (early, _, late, _) = encoder(images(), taps=(1, 3)).taps, encoder.maps(images())
    cells = early.unflatten(3, (8, 2)).unflatten(2, (8, 2)).mean((3, 5)).flatten(2).transpose(1, 2)
    torch.testing.assert_close(taps[1][:, 1:, :32], cells, atol=1e-5, rtol=1e-5)
    assert not taps[1][..., 32:].any()
    torch.testing.assert_close(taps[1][:, 0, :32], early.mean((2, 3)), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(taps[3][:, 1:], late.flatten(2).transpose(1, 2), atol=1e-5, rtol=1e-5)


def official_layer(name, depths):
    """SimMIM's optimizer.py, restated for timm's names, where merging belongs to the later stage."""
    if name.startswith(("mask_token", "body.patch_embed")):
        return 0
    if found := re.match(r"body\.layers\.(\d+)\.downsample", name):
        return sum(depths[: int(found[1])])
    if found := re.match(r"body\.layers\.(\d+)\.blocks\.(\d+)", name):
        return sum(depths[: int(found[1])]) + int(found[2]) + 1
    return sum(depths) + 1


def test_learning_rates_decay_through_all_stages_as_in_simmims_code():
    encoder = make_encoder(FOUR, 64, 0)
    layers = {name: encoder.layer_of(name) for name, _ in encoder.named_parameters()}
    assert layers == {name: official_layer(name, FOUR.stages) for name in layers}
    assert set(layers.values()) == set(range(7))


def test_tables_of_relative_positions_do_not_decay_in_the_recipe():
    no_decay = tuple(read_yaml(ROOT / "configs" / "recipes" / "simmim_swin.yaml")["schedule"]["no_decay"])
    encoder = make_encoder(TWO, 32, 0)
    groups = parameter_groups(encoder, 0.05, no_decay=no_decay)
    decaying = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    assert all(p.ndim > 1 for p in encoder.parameters() if id(p) in decaying)
    matrices = [name for name, p in encoder.named_parameters() if p.ndim > 1 and id(p) not in decaying]
    assert {name.rpartition(".")[2] for name in matrices} == {"mask_token", "relative_position_bias_table"}


@pytest.mark.parametrize(("config", "size"), [(TWO, 32), (FOUR, 64)])
def test_the_estimate_of_flops_is_near_what_torch_counts(config, size):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        make_encoder(config, size, 0, masked=False)(images(size))
    assert 3 * forward_flops(as_spec(config), size) == pytest.approx(counter.get_total_flops(), rel=0.25)


@pytest.fixture
def under_test(tmp_path, cache):
    counts = {"labeled": 48, "test": 16, "val": 16}
    return EncoderUnderTest(TWO, None, None, "both", 0, DataConfig(), "shapes", counts, cache, tmp_path / "work")


def settings(name, **changes):
    return {**protocols.load(name, SMOKE.get(name, {}), "test").settings, "precision": "fp32", "batch": 16, **changes}


def test_frozen_features_have_every_block_and_the_mean_in_place_of_a_class_token(under_test):
    features = extract_splits(under_test, Runtime())["test"]
    assert features.shape == (4, 16, 128)
    assert torch.equal(features[..., :64], features[..., 64:])
    assert not features[:2, :, 32:64].any()
    assert offered_blocks(under_test.encoder()) == (1, 3)


@pytest.mark.parametrize("protocol", [finetune, segmentation, segmentation_linear, attentive_probe])
def test_every_kind_of_protocol_runs_on_stages(under_test, protocol):
    name = protocol.__name__.rpartition(".")[2]
    result = protocol.evaluate(under_test, settings(name, learning_rates=[1e-3]), Runtime())
    assert 0 <= next(iter(result["metrics"].values())) <= 100


def test_activations_may_be_recomputed():
    gradients = []
    for recomputed in (False, True):
        encoder = make_encoder(TWO, 32, 0)
        encoder.activation_checkpointing = recomputed
        encoder(images(), some_masks()).patches.square().sum().backward()
        gradients.append([p.grad for p in encoder.parameters() if p.grad is not None])
    assert all(torch.equal(one, two) for one, two in zip(*gradients, strict=True))


@given(st.integers(1, 6))
def test_four_maps_are_the_last_ones_of_any_number_of_stages(stages):
    config = dataclasses.replace(TWO, patch=2 ** (stages - 1), dim=2**stages, heads=2 ** (stages - 1), depth=stages,
                                 stages=(1,) * stages, window=1)  # fmt: skip
    tapped = make_encoder(config, 2**stages, 0).tapped()
    assert len(tapped) == 4
    assert list(tapped) == sorted(tapped)
    assert tapped[-1] == stages - 1
    assert set(tapped) == set(range(max(0, stages - 4), stages))
