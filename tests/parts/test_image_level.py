"""Losses and heads of methods that compare whole images, against lightly's and the published figures."""

from __future__ import annotations

import math
from unittest.mock import Mock

import pytest
import torch
from test_golden_parts import wave

from mimbench import registry
from mimbench.models.sinkhorn import sinkhorn
from mimbench.parts import Encoded, Masks, PatchGrid, Taught

GRID = PatchGrid(2, 2, 4)
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


def projector(dim, width, **arguments):
    decoder = registry.build("decoder", {"type": "projector", **arguments})
    decoder.build(dim, width, GRID)
    return decoder


def of_class_token(x):
    return Encoded(x[:, None], x, None, {})


def test_vicreg_is_lightlys_whichever_rank_asks():
    from lightly import loss as loss_module

    one, other, ours = wave(6, 10, pace=1.3), wave(6, 10, pace=0.7), registry.build("loss", {"type": "vicreg"})
    mean = torch.cat([ours(one, other, rows) for rows in (slice(0, 2), slice(2, 6))]).mean()
    torch.testing.assert_close(mean, loss_module.VICRegLoss()(one, other), **TOLERANCE)
    weighted = registry.build("loss", {"type": "vicreg", "invariance": 3.0, "variance": 5.0, "covariance": 7.0})
    expected = loss_module.VICRegLoss(3.0, 5.0, 7.0)(one, other)
    torch.testing.assert_close(weighted(one, other, slice(0, 6)).mean(), expected, **TOLERANCE)


def test_info_nce_of_orthonormal_targets_has_the_closed_value():
    batch, temperature = 5, 0.2
    ours = registry.build("loss", {"type": "info_nce", "temperature": temperature})
    found = ours(3 * torch.eye(batch), 2 * torch.eye(batch), slice(1, 4))
    value = 2 * temperature * (math.log(math.exp(1 / temperature) + batch - 1) - 1 / temperature)
    torch.testing.assert_close(found, torch.full((3,), value), **TOLERANCE)


def test_info_nce_is_lightlys_contrast_with_a_memory_of_the_other_targets():
    """Each image alone with a memory bank of all other targets: what MoCo compares."""
    from lightly import loss as loss_module

    query, key, temperature = wave(4, 6, pace=1.3), wave(4, 6, pace=0.7), 0.2
    ours = registry.build("loss", {"type": "info_nce", "temperature": temperature})
    for image in range(4):
        theirs = loss_module.NTXentLoss(temperature, memory_bank_size=(3, 6))
        others = torch.nn.functional.normalize(key[torch.arange(4) != image], dim=1)
        theirs.memory_bank.bank = others
        theirs.memory_bank.bank_ptr = torch.zeros(1, dtype=torch.long)
        alone = theirs(query[image : image + 1], key[image : image + 1]) * 2 * temperature
        torch.testing.assert_close(ours(query, key, slice(image, image + 1))[0], alone, **TOLERANCE)


def test_the_heads_of_moco_v3_have_the_published_sizes():
    with torch.device("meta"):
        head = projector(768, 256, hidden=4096, layers=3, last_norm=True, predictor=2)
    count = lambda module: sum(p.numel() for p in module.parameters())
    assert (count(head.project), count(head.predict)) == (20_987_904, 2_105_344)


@pytest.mark.parametrize("name", ["MoCoProjectionHead", "BYOLProjectionHead", "VICRegProjectionHead"])
def test_a_projector_is_lightlys_with_the_same_weights(name):
    from lightly.models.modules import heads

    more = {"MoCoProjectionHead": {"num_layers": 3, "batch_norm": True}, "VICRegProjectionHead": {"num_layers": 3}}
    theirs = getattr(heads, name)(6, 8, 5, **more.get(name, {})).train()
    normed = name.startswith("MoCo")
    ours = projector(6, 5, hidden=8, layers=2 if name.startswith("BYOL") else 3, last_norm=normed)
    linears = lambda module: [m for m in module.modules() if isinstance(m, torch.nn.Linear)]
    for one, other in zip(linears(ours), linears(theirs), strict=True):
        other.weight.data.copy_(one.weight)
        if other.bias is not None:
            other.bias.data.zero_() if one.bias is None else other.bias.data.copy_(one.bias)
    x = wave(9, 6, pace=1.7)
    torch.testing.assert_close(ours(of_class_token(x), None), theirs(x), **TOLERANCE)


def test_the_teachers_projection_does_not_pass_the_predictor():
    head, x = projector(6, 5, hidden=8, predictor=2), wave(9, 6, pace=1.7)
    tokenizer = registry.build("tokenizer", {"type": "projection", "dim": 5})
    target = tokenizer(Taught(of_class_token(x), head, 0.0), None, "image")
    torch.testing.assert_close(target, head.project(x))
    torch.testing.assert_close(head(of_class_token(x), None), head.predict(target))
    assert not torch.allclose(head(of_class_token(x), None), target, atol=1e-2)


def test_koleo_is_lightlys_whichever_rank_asks():
    from lightly import loss as loss_module

    x, ours = wave(6, 10, pace=1.3), registry.build("loss", {"type": "koleo"})
    found = torch.cat([ours(x, x, rows) for rows in (slice(0, 2), slice(2, 6))]).mean()
    torch.testing.assert_close(found, loss_module.KoLeoLoss()(x), **TOLERANCE)


@pytest.mark.parametrize("level", ["image", "patch"])
def test_balanced_targets_are_lightlys_sinkhorn_of_the_images_or_of_the_predicted_patches(level):
    from lightly.loss import swav_loss

    given = {"type": "self_distillation", "prototypes": 5, "temperature": 0.07, "start": 0.07, "centering": "sinkhorn"}
    tokenizer = registry.build("tokenizer", given)
    tokenizer.build(5, 1)
    head, patches = Mock(rows=lambda x: x), wave(6, 4, 5, pace=1.3)
    masks = Masks(torch.ones(6, 4, dtype=torch.bool), torch.tensor([0, 3, 7, 8, 13, 14, 22]), None, 7)
    targets = tokenizer(Taught(Encoded(patches, patches[:, 0], None, {}), head, 0.5), masks, level)
    scores = patches[:, 0] if level == "image" else patches.flatten(0, 1)[masks.predicted]
    found = targets if level == "image" else targets.flatten(0, 1)[masks.predicted]
    torch.testing.assert_close(found, swav_loss.sinkhorn(scores, iterations=3, epsilon=0.07), **TOLERANCE)
    balanced = sinkhorn(scores / 0.07, 500)
    torch.testing.assert_close(balanced.mean(0), torch.full((5,), 1 / 5), rtol=1e-2, atol=0.0)
    center = tokenizer.center.clone()
    tokenizer.after_step(1)
    assert torch.equal(tokenizer.center, center)
    assert not center.any()


def test_balancing_no_patches_at_all_gives_none():
    assert sinkhorn(torch.zeros(0, 5), 3).shape == (0, 5)
