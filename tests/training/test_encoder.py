"""The encoder against timm, with and without masks."""

from __future__ import annotations

import pytest
import torch
from timm.models.beit import Beit
from timm.models.vision_transformer import VisionTransformer

from mimbench.config.schema import EncoderConfig
from mimbench.models.encoder import Encoder, choose_attention, make_encoder
from mimbench.parts import Masks

SMALL = {"patch": 4, "dim": 32, "depth": 3, "heads": 4}


def images(count=2, size=16):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def masks(masked, drop=False):
    kept = (~masked).nonzero()[:, 1].view(len(masked), -1) if drop else None
    return Masks(masked, masked.flatten().nonzero().squeeze(1), kept, int(masked.sum()))


def half_masked(count=2, patches=16):
    rank = torch.rand(count, patches, generator=torch.Generator().manual_seed(2)).argsort(1).argsort(1)
    return rank < patches // 2


def test_without_masks_the_encoder_equals_timms_vit():
    ours = Encoder(EncoderConfig(**SMALL), 16).eval()
    theirs = VisionTransformer(
        img_size=16, patch_size=4, embed_dim=32, depth=3, num_heads=4, num_classes=0, global_pool="token"
    ).eval()
    theirs.load_state_dict(ours.body.state_dict())
    features = theirs.forward_features(images())
    encoded = ours(images())
    assert torch.allclose(encoded.patches, features[:, 1:], atol=1e-6)
    assert torch.allclose(encoded.cls, features[:, 0], atol=1e-6)


def test_without_masks_the_encoder_equals_timms_beit():
    config = EncoderConfig(type="beit", positions="none", relative_positions="shared", layer_scale=0.1, **SMALL)
    ours = Encoder(config, 16).eval()
    torch.nn.init.normal_(ours.body.rel_pos_bias.relative_position_bias_table)
    theirs = Beit(img_size=16, patch_size=4, embed_dim=32, depth=3, num_heads=4, num_classes=0, global_pool="token",
                  use_abs_pos_emb=False, use_shared_rel_pos_bias=True, init_values=0.1).eval()  # fmt: skip
    theirs.load_state_dict(ours.body.state_dict())
    assert torch.allclose(ours(images()).patches, theirs.forward_features(images())[:, 1:], atol=1e-6)


def test_with_dropping_the_encoder_sees_only_visible_patches():
    ours = Encoder(EncoderConfig(masking="drop", positions="sincos", **SMALL), 16).eval()
    masked = half_masked()
    encoded = ours(images(), masks(masked, drop=True))
    assert encoded.patches.shape == (2, 8, 32)
    noisy = images()
    pixels = masked.view(2, 4, 4).repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None].expand(-1, 3, -1, -1)
    noisy[pixels] = torch.randn(int(pixels.sum()))
    assert torch.allclose(ours(noisy, masks(masked, drop=True)).patches, encoded.patches, atol=1e-6)


def test_pixels_of_masked_patches_do_not_leak_through_the_token():
    ours = Encoder(EncoderConfig(**SMALL), 16).eval()
    masked = half_masked()
    noisy = images()
    pixels = masked.view(2, 4, 4).repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None].expand(-1, 3, -1, -1)
    noisy[pixels] = torch.randn(int(pixels.sum()))
    assert torch.allclose(ours(noisy, masks(masked)).patches, ours(images(), masks(masked)).patches, atol=1e-6)


def test_taps_are_raw_block_outputs():
    ours = Encoder(EncoderConfig(**SMALL), 16).eval()
    encoded = ours(images(), taps=(0, 2))
    assert set(encoded.taps) == {0, 2}
    assert torch.allclose(ours.body.norm(encoded.taps[2])[:, 1:], encoded.patches, atol=1e-6)


@pytest.mark.parametrize("masking", ["token", "drop"])
def test_initial_weights_follow_from_the_seed_with_and_without_mask_token(masking):
    config = EncoderConfig(masking=masking, **SMALL)
    one, two = make_encoder(config, 16, 3).state_dict(), make_encoder(config, 16, 3, masked=False).state_dict()
    assert all(torch.equal(one[k], two[k]) for k in two)
    assert not torch.equal(make_encoder(config, 16, 4).body.cls_token, one["body.cls_token"])


@pytest.mark.parametrize(("bf16", "fused"), [(True, False), (False, True)])
def test_attention_on_a_cpu_is_fused_in_fp32_and_not_in_bf16_pass_by_pass(bf16, fused, monkeypatch):
    ours, calls = Encoder(EncoderConfig(**SMALL), 16).eval(), []
    before = ours(images()).patches
    choose_attention(ours)
    kernel = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention",
                        lambda *args, **options: calls.append(1) or kernel(*args, **options))  # fmt: skip
    for on in (not bf16, bf16):
        calls.clear()
        with torch.autocast("cpu", torch.bfloat16, enabled=on):
            after = ours(images()).patches
    assert bool(calls) == fused
    assert torch.allclose(after.float(), before, atol=0.1 if bf16 else 1e-5)


def test_layers_are_numbered_for_layer_wise_decay():
    ours = Encoder(EncoderConfig(**SMALL), 16)
    assert ours.layer_of("body.patch_embed.proj.weight") == 0
    assert ours.layer_of("body.blocks.0.attn.qkv.weight") == 1
    assert ours.layer_of("body.blocks.2.mlp.fc1.bias") == 3
    assert ours.layer_of("body.norm.weight") == 4


def test_vit_b_has_the_published_number_of_parameters():
    ours = Encoder(EncoderConfig(masking="drop", positions="sincos"), 224)
    trained = sum(p.numel() for p in ours.parameters())
    assert trained == 85_798_656  # MAE ViT-B encoder, positions included


def causal():
    return Encoder(EncoderConfig(attention="causal", masking="none", **SMALL), 16).eval()


def test_causal_attention_equals_timms():
    ours = causal()
    theirs = ours.body.forward_features(images(), is_causal=True)
    assert torch.allclose(ours(images()).patches, theirs[:, 1:], atol=1e-6)
    assert torch.allclose(ours(images()).cls, theirs[:, -1], atol=1e-6)  # the last token has seen the whole image


@pytest.mark.parametrize("unfused", [False, True])
def test_with_causal_attention_a_patch_changes_no_bit_of_the_predictions_before_it(unfused):
    ours = causal()
    for block in ours.body.blocks:
        block.attn.fused_attn = not unfused
    nothing = masks(torch.zeros(2, 16, dtype=torch.bool))
    changed = images()
    changed[:, :, 8:] += 1  # from patch 8 on
    one, two = ours(images(), nothing).patches, ours(changed, nothing).patches
    assert torch.equal(one[:, :9], two[:, :9])  # place 8 holds what was seen before patch 8
    assert (one[:, 9] != two[:, 9]).any()


def test_an_image_of_another_size_gets_the_positions_that_timm_interpolates():
    ours = Encoder(EncoderConfig(positions="sincos", **SMALL), 16).eval()
    theirs = VisionTransformer(
        img_size=16, patch_size=4, embed_dim=32, depth=3, num_heads=4, num_classes=0, dynamic_img_size=True
    ).eval()
    theirs.load_state_dict(ours.body.state_dict(), strict=False)
    small = images(size=8)
    assert torch.allclose(ours(small).patches, theirs.forward_features(small)[:, 1:], atol=1e-6)


@pytest.mark.parametrize(
    "kind", [{"drop_path": 0.5}, {"type": "beit", "layer_scale": 0.1, "relative_positions": "shared"}]
)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_without_the_last_mlp_where_nobody_reads_predictions_and_gradients_are_the_same(kind, checkpointing):
    read, rows = masks(half_masked()), []
    for only_predicted in (False, True):
        ours = make_encoder(EncoderConfig(**SMALL, **kind), 16, 0)
        ours.only_predicted, ours.activation_checkpointing = only_predicted, checkpointing
        ours.body.blocks[-1].mlp.fc1.register_forward_hook(lambda module, args, out: rows.append(out.numel()))
        torch.manual_seed(0)  # drop path
        encoded = ours(images(), read)
        seen = torch.cat([encoded.cls, encoded.patches.flatten(0, 1)[read.predicted]])
        seen.square().sum().backward()
        found = [seen.detach(), *(parameter.grad for parameter in ours.parameters() if parameter.grad is not None)]
        if not only_predicted:
            expected = found
    assert rows[-1] == rows[0] * 18 // 34  # 2 class tokens and 16 of 32 patches
    assert len(found) == len(expected)
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(found, expected, strict=True))
