"""BEiT, MAE and SimMIM against figures of their official models (see official_figures.py): same weights, same images."""

import json
from pathlib import Path

import pytest
import torch
from official_figures import CODES, DIM, HEADS, PATCH, SIZE, images, masked, weights, written_down

from mimbench import registry
from mimbench.models.architecture import Described
from mimbench.models.encoder import make_encoder
from mimbench.models.foreign import load_into, read_checkpoint
from mimbench.models.positions import sincos
from mimbench.parts import Masks, PatchGrid
from mimbench.registries.tokenizers.pixels import MEAN, STD

OFFICIAL = json.loads((Path(__file__).parents[1] / "golden" / "official.json").read_text())
GRID = PatchGrid(SIZE // PATCH, SIZE // PATCH, PATCH)


def encoder_of(tensors, folder, masking="token"):
    """Ours, from a file in the official layout."""
    torch.save({"model": tensors}, folder / "official.pth")
    checkpoint = read_checkpoint(folder / "official.pth")
    config = checkpoint.encoder_config(Described(heads=HEADS), {"masking": masking, "normalization": "imagenet"})
    plain = make_encoder(config, SIZE, 0, masked=False)
    load_into(plain, checkpoint)
    encoder = make_encoder(config, SIZE, 0)
    encoder.load_state_dict(plain.state_dict(), strict=False)
    if encoder.mask_token is not None:
        encoder.mask_token.copy_(next(value for name, value in tensors.items() if name.endswith("mask_token")))
    return encoder.eval()


def as_masks(hidden, *, drop=False):
    predicted = hidden.flatten().nonzero().squeeze(1)
    kept = (~hidden).nonzero()[:, 1].view(len(hidden), -1) if drop else None
    return Masks(hidden, predicted, kept, len(predicted))


def linear(weight, bias):
    decoder = registry.build("decoder", {"type": "linear"})
    decoder.build(DIM, len(bias), GRID)
    decoder.project.load_state_dict({"weight": weight.flatten(1), "bias": bias})
    return decoder


def pixel_loss(name, prediction, masks, *, normalize=False):
    raw = images() * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
    tokenizer = registry.build("tokenizer", {"type": "pixels", "normalize": normalize})
    target = tokenizer({"raw": raw}, GRID).flatten(0, 1)[masks.predicted]
    return float(registry.build("loss", {"type": name})(prediction, target).sum() / masks.total)


@pytest.mark.parametrize("name", ["beit", "beit_relative"])
@torch.no_grad()
def test_logits_at_masked_positions_are_those_of_the_official_beit(tmp_path, name):
    tensors, masks = weights(OFFICIAL[name]["shapes"]), as_masks(masked())
    encoder = encoder_of(tensors, tmp_path)
    logits = linear(tensors["lm_head.weight"], tensors["lm_head.bias"])(encoder(images(), masks), masks)
    assert logits.shape == (12, CODES)
    torch.testing.assert_close(logits, torch.tensor(OFFICIAL[name]["logits"]), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_pooled_features_are_those_of_the_official_fine_tuned_beit(tmp_path):
    tensors = weights(OFFICIAL["beit_finetuned"]["shapes"])
    encoder = encoder_of(tensors, tmp_path, masking="none")
    last = encoder.depth - 1
    pooled = encoder.pooled(encoder(images(), taps=(last,)).taps[last], "mean")
    pooled = torch.nn.functional.layer_norm(pooled, (DIM,), tensors["fc_norm.weight"], tensors["fc_norm.bias"], 1e-6)
    torch.testing.assert_close(pooled, torch.tensor(OFFICIAL["beit_finetuned"]["pooled"]), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_loss_on_the_same_noise_is_that_of_the_official_mae(tmp_path):
    tensors = weights(OFFICIAL["mae"]["shapes"])
    tensors["pos_embed"] = sincos(GRID.rows, GRID.columns, DIM, cls=True).unsqueeze(0)
    hidden = torch.tensor(OFFICIAL["mae"]["masked"]).bool()
    order = written_down("noise", hidden.shape).argsort(1).argsort(1)
    assert (hidden == (order >= GRID.count // 4)).all()  # the quarter with the lowest noise stays
    masks = as_masks(hidden, drop=True)
    decoder = registry.build("decoder", {"type": "transformer", "dim": 8, "depth": 1, "heads": HEADS})
    decoder.build(DIM, PATCH**2 * 3, GRID)
    names = {
        "decoder_embed.": "embed.",
        "decoder_blocks.": "blocks.",
        "decoder_norm.": "norm.",
        "decoder_pred.": "project.",
    }
    theirs = {ours + name.removeprefix(start): value for start, ours in names.items() for name, value in tensors.items()
              if name.startswith(start)}  # fmt: skip
    decoder.load_state_dict({"mask_token": tensors["mask_token"], **theirs})
    prediction = decoder(encoder_of(tensors, tmp_path, masking="drop")(images(), masks), masks)
    loss = pixel_loss("mse", prediction, masks, normalize=True)
    assert loss == pytest.approx(OFFICIAL["mae"]["loss"], rel=1e-5)


@torch.no_grad()
def test_the_loss_is_that_of_the_official_simmim(tmp_path):
    tensors, masks = weights(OFFICIAL["simmim"]["shapes"]), as_masks(masked())
    encoder = encoder_of(tensors, tmp_path)
    channels_last = torch.arange(3 * PATCH**2).view(3, -1).T.flatten()  # theirs are the planes of PixelShuffle
    decoder = linear(*(tensors[f"decoder.0.{kind}"][channels_last] for kind in ("weight", "bias")))
    loss = pixel_loss("l1", decoder(encoder(images(), masks), masks), masks)
    assert loss == pytest.approx(OFFICIAL["simmim"]["loss"], rel=1e-5)
