"""Masks that follow the teacher's attention: what stays visible is a draw by it, without replacement, with exact counts."""

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from mimbench import registry
from mimbench.config.schema import EncoderConfig
from mimbench.models.encoder import make_encoder
from mimbench.parts import PatchGrid
from mimbench.pretrain.masks import StepMasks, guided
from mimbench.runtime import Runtime

GRID = PatchGrid(3, 4, 4)


def drawn(batch=6, *, drop=True, ratio=0.75, **arguments):
    masker = registry.build("masker", {"type": "attention_guided", "ratio": ratio, **arguments})
    return StepMasks(masker, GRID, drop=drop, seed=0).whole(batch, 0)


def test_where_the_class_token_looks_is_timms_attention():
    encoder = make_encoder(EncoderConfig(patch=4, dim=16, depth=3, heads=2), 16, 0, masked=False).eval()
    theirs = VisionTransformer(img_size=16, patch_size=4, embed_dim=16, depth=3, num_heads=2, num_classes=0).eval()
    theirs.load_state_dict({key.removeprefix("body."): value for key, value in encoder.state_dict().items()})
    attention = theirs.blocks[-1].attn
    attention.fused_attn, weights = False, []
    attention.attn_drop.register_forward_hook(lambda module, args, found: weights.append(args[0]))
    images = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        theirs.forward_features(images)
        found = encoder.class_attention(encoder(images, None, (1,)).taps[1])
    torch.testing.assert_close(found, weights[0].mean(1)[:, 0, 1:], rtol=1e-5, atol=1e-6)


def test_even_attention_leaves_the_masks_of_the_noise_alone():
    masks = drawn()
    same = guided(masks, torch.full((6, 12), 1 / 12))
    for key in ("masked", "predicted", "kept"):
        assert torch.equal(getattr(same, key), getattr(masks, key))


@pytest.mark.parametrize("predict", ["masked", "all"])
@pytest.mark.parametrize("drop", [True, False])
def test_positions_agree_with_the_mask_and_counts_are_exact(predict, drop):
    masks = drawn(drop=drop, predict=predict)
    found = guided(masks, torch.rand(6, 12, generator=torch.Generator().manual_seed(0)))
    assert not torch.equal(found.masked, masks.masked)
    assert (found.masked.sum(1) == 9).all()
    wanted = torch.ones_like(found.masked) if predict == "all" else found.masked
    assert torch.equal(found.predicted, wanted.flatten().nonzero().squeeze(1))
    assert found.total == masks.total == len(found.predicted)
    if drop:
        assert torch.equal(found.kept, (~found.masked).nonzero()[:, 1].view(6, -1))
    else:
        assert found.kept is None


def test_a_single_visible_patch_is_drawn_with_the_attention_as_probability():
    attention = torch.tensor([0.4, 0.3, 0.2, 0.1] + [0.0] * 8)
    found = guided(drawn(20000, ratio=11 / 12), attention.expand(20000, -1))
    shares = (~found.masked).float().mean(0)
    torch.testing.assert_close(shares, attention, rtol=0, atol=0.015)  # four deviations of 20,000 draws


def test_ranks_and_micro_batches_cut_the_noise_of_the_whole_batch():
    masker = registry.build("masker", {"type": "attention_guided"})
    whole = StepMasks(masker, GRID, drop=True, seed=0).whole(8, 3)
    for rank in range(2):
        parts = StepMasks(masker, GRID, drop=True, seed=0).micro_batches(
            4, 3, Runtime(rank=rank, world=2, micro_batch=2)
        )
        assert torch.equal(torch.cat([part.noise for part in parts]), whole.noise[4 * rank : 4 * rank + 4])
        assert {part.hidden for part in parts} == {whole.hidden}
