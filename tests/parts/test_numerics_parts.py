"""Numbers against the independent implementations in transformers, with the same weights and the same masks."""

import pytest
import torch
from transformers import BeitConfig, BeitForMaskedImageModeling, ViTMAEConfig, ViTMAEForPreTraining

import mimbench.compat  # isort: split  # noqa: F401  before transformers imports torchvision
from mimbench import registry
from mimbench.models.blocks import patchify
from mimbench.models.positions import sincos
from mimbench.parts import Encoded, Masks, PatchGrid
from mimbench.registries.tokenizers.pixels import MEAN, STD

GRID = PatchGrid(6, 6, 4)


def mae(normalize):
    torch.manual_seed(0)
    config = ViTMAEConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64, image_size=24, patch_size=4,
        decoder_hidden_size=16, decoder_num_hidden_layers=2, decoder_num_attention_heads=4,
        decoder_intermediate_size=64, layer_norm_eps=1e-6, norm_pix_loss=normalize,
    )  # fmt: skip
    model = ViTMAEForPreTraining(config).eval()
    model.decoder.initialize_weights(GRID.count)  # or its positions stay zero, as loading weights expects them
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "pos_embed" not in name:
                parameter.add_(0.05 * torch.randn_like(parameter))  # no bias stays zero, no scale one
    return model


def decoder_with_weights_of(model):
    decoder = registry.build("decoder", {"type": "transformer", "dim": 16, "depth": 2, "heads": 4})
    decoder.build(32, GRID.patch**2 * 3, GRID)
    theirs = model.decoder.state_dict()
    ours = {"mask_token": theirs["mask_token"]}
    for our_name, their_name in (("embed", "decoder_embed"), ("norm", "decoder_norm"), ("project", "decoder_pred")):
        for kind in ("weight", "bias"):
            ours[f"{our_name}.{kind}"] = theirs[f"{their_name}.{kind}"]
    names = (
        ("norm1", "layernorm_before"), ("attn.proj", "attention.o_proj"), ("norm2", "layernorm_after"),
        ("mlp.fc1", "mlp.fc1"), ("mlp.fc2", "mlp.fc2"),
    )  # fmt: skip
    for block in range(2):
        there = f"decoder_layers.{block}"
        for kind in ("weight", "bias"):
            for our_name, their_name in names:
                ours[f"blocks.{block}.{our_name}.{kind}"] = theirs[f"{there}.{their_name}.{kind}"]
            parts = [theirs[f"{there}.attention.{which}_proj.{kind}"] for which in "qkv"]
            ours[f"blocks.{block}.attn.qkv.{kind}"] = torch.cat(parts)
    decoder.load_state_dict(ours)
    return decoder


def normalized(raw):
    return (raw - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)


@pytest.mark.parametrize("normalize", [False, True])
@torch.no_grad()
def test_decoder_targets_and_loss_are_those_of_mae(normalize):
    model = mae(normalize)
    raw, noise = torch.rand(3, 3, 24, 24), torch.rand(3, 36)
    output = model(pixel_values=normalized(raw), noise=noise)

    hidden = output.mask.bool()
    inside = model.vit(pixel_values=normalized(raw), noise=noise).last_hidden_state
    shuffled = noise.argsort(1)[:, : inside.shape[1] - 1]  # the order in which MAE keeps patches; ours ascends
    kept, order = shuffled.sort(1)
    patches = inside[:, 1:].gather(1, order.unsqueeze(-1).expand(-1, -1, 32))
    predicted = hidden.flatten().nonzero().squeeze(1)
    masks = Masks(hidden, predicted, kept, len(predicted))
    prediction = decoder_with_weights_of(model)(Encoded(patches, inside[:, 0], kept, {}), masks)
    torch.testing.assert_close(prediction, output.logits[hidden], atol=1e-5, rtol=1e-4)

    target = registry.build("tokenizer", {"type": "pixels", "normalize": normalize})({"raw": raw}, GRID)
    loss = registry.build("loss", {"type": "mse"})(prediction, target.flatten(0, 1)[predicted]).sum() / masks.total
    torch.testing.assert_close(loss, output.loss)


def test_patches_are_cut_as_mae_cuts_them():
    images = torch.rand(2, 3, 24, 24)
    torch.testing.assert_close(patchify(images, 6, 6), mae(False).patchify(images))


def test_sine_cosine_positions_are_those_of_mae():
    torch.testing.assert_close(
        sincos(6, 6, 16, cls=True).unsqueeze(0), mae(False).decoder.decoder_pos_embed, atol=1e-6, rtol=1e-5
    )
    torch.testing.assert_close(sincos(6, 6, 16, cls=False), sincos(6, 6, 16, cls=True)[1:])


def test_first_half_of_the_position_channels_encodes_the_column():
    embedding = sincos(3, 5, 8, cls=False).view(3, 5, 8)
    assert (embedding[0, :, :4] == embedding[2, :, :4]).all()
    assert (embedding[:, 0, 4:] == embedding[:, 4, 4:]).all()
    angles = 3 * torch.tensor([1.0, 0.01])
    torch.testing.assert_close(embedding[0, 3, :4], torch.cat([angles.sin(), angles.cos()]))


def test_positions_refuse_a_dimension_that_cannot_be_quartered():
    with pytest.raises(ValueError, match="divisible by 4, not 6"):
        sincos(2, 2, 6, cls=False)


@torch.no_grad()
def test_cross_entropy_over_masked_positions_is_that_of_beit():
    torch.manual_seed(0)
    config = BeitConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64, image_size=24, patch_size=4,
        vocab_size=20, use_mask_token=True,
    )  # fmt: skip
    model = BeitForMaskedImageModeling(config).eval()
    model.lm_head.weight.normal_()
    hidden, codes = torch.rand(3, 36) < 0.4, torch.randint(20, (3, 36))
    pixels = torch.rand(3, 3, 24, 24)
    output = model(pixel_values=pixels, bool_masked_pos=hidden, labels=codes[hidden])

    features = model.layernorm(model.beit(pixels, bool_masked_pos=hidden).last_hidden_state)
    decoder = registry.build("decoder", {"type": "linear"})
    decoder.build(32, 20, GRID)
    decoder.project.load_state_dict(model.lm_head.state_dict())
    predicted = hidden.flatten().nonzero().squeeze(1)
    masks = Masks(hidden, predicted, None, len(predicted))
    prediction = decoder(Encoded(features[:, 1:], features[:, 0], None, {}), masks)
    loss = registry.build("loss", {"type": "cross_entropy"})(prediction, codes.flatten()[predicted]).sum() / masks.total
    torch.testing.assert_close(loss, output.loss)
