"""Numbers against the independent implementations in transformers, with the same weights and the same masks."""

import pytest
import torch
from transformers import (
    BeitConfig,
    BeitForMaskedImageModeling,
    ViTConfig,
    ViTForMaskedImageModeling,
    ViTMAEConfig,
    ViTMAEForPreTraining,
)  # fmt: skip

import mimbench.compat  # isort: split  # noqa: F401  before transformers imports torchvision
from mimbench import registry
from mimbench.models.blocks import patchify
from mimbench.models.encoder import make_encoder
from mimbench.models.foreign import load_into, read_checkpoint
from mimbench.models.positions import sincos
from mimbench.models.released import locate
from mimbench.parts import Masks, PatchGrid
from mimbench.registries.tokenizers.pixels import MEAN, STD

GRID = PatchGrid(6, 6, 4)
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "image_size": 24,
         "patch_size": 4}  # fmt: skip


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


def shaken(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))  # no bias stays zero, no scale one
    return model.eval()


def encoder_of(model, folder, grid, masking="token", **stated):
    """Ours, with the weights that transformers saved; it has a mask token if `masking` says so."""
    model.save_pretrained(folder)
    path, described = locate(str(folder))
    checkpoint = read_checkpoint(path)
    config = checkpoint.encoder_config(described, {"masking": masking, **stated})
    size = grid.rows * grid.patch
    plain = make_encoder(config, size, 0, masked=False)
    load_into(plain, checkpoint)
    encoder = make_encoder(config, size, 0)
    encoder.load_state_dict(plain.state_dict(), strict=False)
    return encoder.eval()


def some_masks():
    hidden = torch.rand(3, 36) < 0.4
    predicted = hidden.flatten().nonzero().squeeze(1)
    return Masks(hidden, predicted, None, len(predicted))


def loss_on(name, prediction, tokenizer, raw, masks):
    target = registry.build("tokenizer", tokenizer)({"raw": raw}, GRID).flatten(0, 1)[masks.predicted]
    return registry.build("loss", {"type": name})(prediction, target).sum() / masks.total


@pytest.mark.parametrize("normalize", [False, True])
@torch.no_grad()
def test_predictions_and_loss_on_the_same_noise_are_those_of_mae(normalize, tmp_path):
    model = mae(normalize)
    raw, noise = torch.rand(3, 3, 24, 24), torch.rand(3, 36)
    output = model(pixel_values=normalized(raw), noise=noise)

    hidden = output.mask.bool()
    predicted = hidden.flatten().nonzero().squeeze(1)
    masks = Masks(hidden, predicted, (~hidden).nonzero()[:, 1].view(3, -1), len(predicted))
    encoded = encoder_of(model, tmp_path, GRID, masking="drop")(normalized(raw), masks)
    prediction = decoder_with_weights_of(model)(encoded, masks)
    torch.testing.assert_close(prediction, output.logits[hidden], atol=1e-5, rtol=1e-4)

    loss = loss_on("mse", prediction, {"type": "pixels", "normalize": normalize}, raw, masks)
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
def test_logits_and_loss_at_masked_positions_are_those_of_beit(tmp_path):
    torch.manual_seed(0)
    config = BeitConfig(**SMALL, vocab_size=20, use_mask_token=True, use_shared_relative_position_bias=True)
    model = shaken(BeitForMaskedImageModeling(config))
    masks, codes, pixels = some_masks(), torch.randint(20, (3, 36)), torch.rand(3, 3, 24, 24)
    output = model(pixel_values=pixels, bool_masked_pos=masks.masked, labels=codes[masks.masked])

    encoder = encoder_of(model, tmp_path, GRID, normalization="imagenet")
    encoder.mask_token.copy_(model.beit.embeddings.mask_token)
    decoder = registry.build("decoder", {"type": "linear"})
    decoder.build(32, 20, GRID)
    decoder.project.load_state_dict(model.lm_head.state_dict())
    logits = decoder(encoder(pixels, masks), masks)
    torch.testing.assert_close(logits, output.logits[masks.masked], atol=1e-5, rtol=1e-5)
    found = registry.build("loss", {"type": "cross_entropy"})(logits, codes.flatten()[masks.predicted])
    torch.testing.assert_close(found.sum() / masks.total, output.loss)


@torch.no_grad()
def test_predictions_and_loss_at_masked_positions_are_those_of_simmim(tmp_path):
    torch.manual_seed(0)
    model = shaken(ViTForMaskedImageModeling(ViTConfig(**SMALL, encoder_stride=4)))
    masks, raw = some_masks(), torch.rand(3, 3, 24, 24)
    output = model(pixel_values=normalized(raw), bool_masked_pos=masks.masked)

    encoder = encoder_of(model, tmp_path, GRID)
    encoder.mask_token.copy_(model.vit.embeddings.mask_token)
    decoder = registry.build("decoder", {"type": "linear"})
    decoder.build(32, 48, GRID)
    channels_last = torch.arange(48).view(3, 16).T.flatten()  # theirs are the planes of PixelShuffle
    decoder.project.weight.copy_(model.decoder[0].weight[channels_last].flatten(1))
    decoder.project.bias.copy_(model.decoder[0].bias[channels_last])
    prediction = decoder(encoder(normalized(raw), masks), masks)
    theirs = patchify(output.reconstruction, 6, 6).flatten(0, 1)[masks.predicted]
    torch.testing.assert_close(prediction, theirs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(loss_on("l1", prediction, {"type": "pixels"}, raw, masks), output.loss)
