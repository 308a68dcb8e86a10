import math

import pytest
import torch
import torch.nn.functional as F

from mimbench import registry
from mimbench.config.parts import resolve
from mimbench.config.schema import EncoderConfig
from mimbench.errors import UserError
from mimbench.models.encoder import make_encoder
from mimbench.parts import PatchGrid
from mimbench.pretrain.tokenizer import FrozenEncoder

GRID = PatchGrid(4, 4, 4)


def dvae(grid=GRID, **arguments):
    torch.manual_seed(0)
    tokenizer = registry.build("tokenizer", {"type": "dvae", "vocabulary": 8, "hidden": 16} | arguments)
    tokenizer.build(grid)
    return tokenizer


def tiles(count):
    """Images of 4 x 4 tiles, each one of eight fixed patterns that share one mean."""
    generator = torch.Generator().manual_seed(0)
    patterns = 0.5 + 0.3 * torch.randn(8, 3, 4, 4, generator=generator).sign()
    patterns += 0.5 - patterns.mean((2, 3), keepdim=True)
    chosen = patterns[torch.randint(8, (count, 4, 4), generator=generator)]  # (count, 4, 4, 3, 4, 4)
    return chosen.permute(0, 3, 1, 4, 2, 5).reshape(count, 3, 16, 16)


def test_pixels_are_imagenet_normalized_in_the_order_row_column_channel():
    raw = torch.rand(2, 3, 16, 16)
    target = registry.build("tokenizer", {"type": "pixels"})({"raw": raw}, GRID)
    assert target.shape == (2, 16, 48)
    # patch 6 is at row 1, column 2; value 3 * (4 * 2 + 1) + 2 is its row 2, column 1, blue
    torch.testing.assert_close(target[1, 6, 29], (raw[1, 2, 4 + 2, 8 + 1] - 0.406) / 0.225)


def test_normalized_patches_have_mean_zero_and_unbiased_variance_one():
    target = registry.build("tokenizer", {"type": "pixels", "normalize": True})({"raw": torch.rand(2, 3, 16, 16)}, GRID)
    torch.testing.assert_close(target.mean(-1), torch.zeros(2, 16), atol=1e-5, rtol=0)
    torch.testing.assert_close(target.var(-1), torch.ones(2, 16), atol=1e-4, rtol=0)


def test_a_flat_patch_normalizes_to_zero_and_not_to_nan():
    target = registry.build("tokenizer", {"type": "pixels", "normalize": True})(
        {"raw": torch.zeros(1, 3, 16, 16)}, GRID
    )
    assert target.isfinite().all()


@pytest.mark.parametrize(("name", "arguments"), [("pixels", {}), ("dvae", {"vocabulary": 8})])
def test_an_image_of_another_size_is_refused(name, arguments):
    tokenizer = registry.build("tokenizer", {"type": name, **arguments})
    if tokenizer.trained:
        tokenizer.build(GRID)
    with pytest.raises(ValueError, match="the view raw gives"):
        tokenizer({"raw": torch.rand(2, 3, 24, 24)}, PatchGrid(4, 4, 4))


@pytest.mark.parametrize("patch", [2, 4, 8, 16])
def test_dvae_gives_one_code_per_patch(patch):
    grid = PatchGrid(3, 2, patch)
    tokenizer = dvae(grid)
    batch = {"raw": torch.rand(2, 3, 3 * patch, 2 * patch)}
    assert tokenizer(batch, grid).shape == (2, 6)
    # compares the reconstruction with the image: another size would be an error, or a warning, which is one here
    assert math.isfinite(tokenizer.quality(batch, grid)["reconstruction_mse"])


@pytest.mark.parametrize("patch", [1, 14])
def test_dvae_refuses_a_patch_that_is_no_power_of_two(patch):
    with pytest.raises(ValueError, match=f"a power of two, not {patch} pixels"):
        dvae(PatchGrid(2, 2, patch))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"vocabulary": 1}, "vocabulary must be at least 2 codes"),
        ({"hidden": 0}, "hidden must be at least 1"),
        ({"temperature_start": 0.01}, "not rise, not 0.01 at the start and 0.0625 at the end"),
        ({"kl": -1}, "kl is a weight of at least 0"),
        ({"perceptual": -1}, "perceptual is a weight of at least 0"),
    ],
)
def test_bad_arguments_are_refused_while_planning(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        resolve("tokenizer", {"type": "dvae", **arguments}, "row")


def test_dvae_learns_codes_that_beat_the_patch_mean_and_are_all_in_use():
    tokenizer, images = dvae(), tiles(256)
    optimizer = torch.optim.AdamW(tokenizer.parameters(), lr=1e-2)
    untrained = tokenizer.quality({"raw": images}, GRID)
    for step in range(150):
        loss, values = tokenizer.training_loss({"raw": images[torch.randint(256, (16,))]}, step / 150)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    trained = tokenizer.quality({"raw": images}, GRID)
    assert not untrained["usable"]
    assert trained["usable"], trained["why"]
    assert trained["reconstruction_mse"] < 0.5 * trained["patch_mean_mse"]
    assert trained["perplexity"] > 6
    assert values["mean_code_perplexity"] == pytest.approx(trained["perplexity"], rel=0.3)


def test_a_collapsed_codebook_is_found_out():
    tokenizer = dvae()
    torch.nn.init.zeros_(tokenizer.encoder[-1].weight)  # whatever the image, the same logits
    figures = tokenizer.quality({"raw": tiles(16)}, GRID)
    assert figures["perplexity"] == pytest.approx(1)
    assert figures["codes_used"] == 1 / 8
    assert not figures["usable"]
    assert "codebook collapsed: perplexity 1.0 is not above 2.0" in figures["why"]


def test_uniform_use_of_the_codes_costs_nothing_and_collapse_the_most():
    tokenizer = dvae(kl=1.0)
    images = {"raw": tiles(4)}
    torch.nn.init.zeros_(tokenizer.encoder[-1].weight)
    torch.nn.init.zeros_(tokenizer.encoder[-1].bias)
    losses = {}
    for name, bias in (("uniform", 0.0), ("collapsed", 100.0)):
        tokenizer.encoder[-1].bias.data[0] = bias
        loss, values = tokenizer.training_loss(images, 1.0)
        losses[name] = loss.item() - values["reconstruction"].item() * 16
    assert losses["uniform"] == pytest.approx(0, abs=1e-4)
    assert losses["collapsed"] == pytest.approx(math.log(8), abs=1e-4)


def test_the_perceptual_term_is_the_distance_of_a_timm_models_unit_features():
    """Of the image and its reconstruction, patch by patch, at a quarter, a half, three quarters and the end."""
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    config = EncoderConfig(patch=4, dim=8, depth=4, heads=2)
    encoder = make_encoder(config, 16, 0, masked=False)
    theirs = VisionTransformer(img_size=16, patch_size=4, embed_dim=8, depth=4, num_heads=2, num_classes=0).eval()
    theirs.load_state_dict({key.removeprefix("body."): value for key, value in encoder.state_dict().items()})
    images, plain, perceptual = tiles(4), dvae(), dvae(perceptual=0.5)
    perceptual.learn_from(FrozenEncoder(encoder, torch.device("cpu")))
    torch.manual_seed(3)
    without, _ = plain.training_loss({"raw": images}, 0.5)
    torch.manual_seed(3)
    with_it, values = perceptual.training_loss({"raw": images}, 0.5)
    torch.manual_seed(3)
    soft = F.gumbel_softmax(plain._logits((images - 0.5) * 4), tau=0.25)
    reconstruction = plain._reconstruct(soft @ plain.codebook) / 4 + 0.5
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    seen = [theirs.get_intermediate_layers((x - mean) / std, n=4) for x in (images, reconstruction)]
    unit = lambda x: x / x.norm(dim=-1, keepdim=True)
    expected = torch.stack([(unit(a) - unit(b)).square().sum(-1).mean() for a, b in zip(*seen, strict=True)]).mean()
    torch.testing.assert_close(values["perceptual"], expected.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(with_it - without, 0.5 * expected, rtol=1e-4, atol=1e-5)
    with_it.backward()
    assert all(parameter.grad is None for parameter in encoder.parameters())


def test_the_training_loss_stays_float32_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = dvae().training_loss({"raw": tiles(4)}, 0.5)
    assert loss.dtype == torch.float32
