"""VQ-KD against vector_quantize_pytorch and the published update, in pieces and on all vectors at once."""

import pytest
import torch
import torch.nn.functional as F
from vector_quantize_pytorch import VectorQuantize

from mimbench import registry
from mimbench.models.blocks import PlainBlock, transformer_block
from mimbench.parts import PatchGrid
from mimbench.testing.inputs import LinearTeacher

GRID = PatchGrid(4, 4, 4)
SIZES = {"vocabulary": 12, "code_dim": 6, "dim": 16, "depth": 1, "heads": 2, "decoder_depth": 1}


def vqkd(**changes):
    torch.manual_seed(0)
    tokenizer = registry.build("tokenizer", {"type": "vqkd", **SIZES, **changes})
    tokenizer.build(GRID)
    tokenizer.learn_from(LinearTeacher(GRID, 5, 2))
    return tokenizer


def batch(count, seed=0):
    raw = torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    return {"raw": raw, "image": raw}


def counterpart(tokenizer):
    theirs = VectorQuantize(dim=6, codebook_size=12, use_cosine_sim=True, commitment_weight=1.0, decay=0.99,
                             rotation_trick=False)  # fmt: skip
    theirs._codebook.embed.data.copy_(tokenizer.codebook.unsqueeze(0))
    return theirs


def test_codes_are_those_of_an_independent_quantizer():
    tokenizer = vqkd()
    codes = tokenizer(batch(8), GRID)
    _, theirs, _ = counterpart(tokenizer).eval()(tokenizer._vectors(batch(8)))
    assert torch.equal(codes, theirs)
    assert len(codes.unique()) > 1


def test_the_gradient_passes_the_codes_as_in_an_independent_quantizer():
    tokenizer = vqkd()
    vectors = tokenizer._vectors(batch(8)).detach()
    ours, theirs = vectors.clone().requires_grad_(), vectors.clone().requires_grad_()
    tokenizer._vectors = lambda images: F.normalize(ours, dim=-1)
    loss, _ = tokenizer.training_loss(batch(8), 0.5)
    loss.backward()
    quantized, _, commitment = counterpart(tokenizer).train()(theirs, freeze_codebook=True)
    taught = tokenizer._teacher(batch(8)["image"]).patches
    expected = 1 - F.cosine_similarity(tokenizer._restored(quantized), taught, dim=-1).mean() + commitment.sum()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)


def test_its_blocks_are_timms():
    ours, theirs = PlainBlock(8, 2), transformer_block(8, 2)
    names = {"attn.qkv": "qkv", "attn.proj": "proj", "mlp.fc1": "mlp.0", "mlp.fc2": "mlp.2"}
    state = {}
    for key, value in theirs.state_dict().items():
        layer, _, kind = key.rpartition(".")
        state[f"{names.get(layer, layer)}.{kind}"] = value
    ours.load_state_dict(state)
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


def test_codes_move_as_published_and_unused_ones_stay():
    tokenizer = vqkd(decay=0.9)
    before, vectors = tokenizer.codebook.clone(), tokenizer._vectors(batch(2)).detach()
    codes = tokenizer(batch(2), GRID)
    tokenizer.training_loss(batch(2), 0.5)
    tokenizer.after_step(1)
    assert 0 < len(codes.unique()) < 12
    for code in range(12):
        mine = vectors[codes == code]
        moved = before[code]
        if len(mine):
            total = mine.sum(0)
            moved = 0.9 * before[code] + 0.1 * total / total.norm()
            moved = moved / moved.norm()
        torch.testing.assert_close(tokenizer.codebook[code], moved)


@pytest.mark.parametrize("progress", [0.0, 0.5])
def test_codes_of_micro_batches_are_those_of_the_whole_batch(progress):
    whole, parts = vqkd(), vqkd()
    images = batch(8)
    whole.training_loss(images, progress)
    for rows in (slice(0, 3), slice(3, 8)):
        parts.training_loss({key: view[rows] for key, view in images.items()}, progress)
    whole.after_step(1)
    parts.after_step(1)
    assert not torch.equal(whole.codebook, vqkd().codebook)
    torch.testing.assert_close(parts.codebook, whole.codebook, rtol=1e-5, atol=1e-5)


def test_the_teachers_layers_do_not_belong_to_the_tokenizer_that_pretraining_loads():
    tokenizer = vqkd()
    fresh = registry.build("tokenizer", {"type": "vqkd", **SIZES})
    fresh.build(GRID)
    assert fresh.state_dict().keys() < tokenizer.state_dict().keys()


def test_it_learns_codes_that_restore_the_teacher_better_than_its_mean_feature():
    tokenizer = vqkd(vocabulary=8)
    optimizer = torch.optim.AdamW(tokenizer.parameters(), lr=3e-3)
    colors = torch.rand(8, 3, generator=torch.Generator().manual_seed(1))  # of the patches: as many as codes
    chosen = torch.randint(8, (64, 4, 4), generator=torch.Generator().manual_seed(2))
    raw = colors[chosen].permute(0, 3, 1, 2).repeat_interleave(4, 2).repeat_interleave(4, 3)
    images = {"raw": raw, "image": (raw - 0.5) / 0.25}
    untrained = tokenizer.quality(images, GRID)
    for step in range(60):
        loss, _ = tokenizer.training_loss(images, step / 60)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        tokenizer.after_step(1)
    trained = tokenizer.quality(images, GRID)
    assert not untrained["usable"]
    assert "no better" in untrained["why"]
    assert trained["usable"], trained["why"]
    assert trained["teacher_cosine"] > 0.9 > trained["mean_feature_cosine"]


def test_one_code_for_everything_is_found_out():
    tokenizer = vqkd()
    tokenizer.codebook[:] = tokenizer.codebook[0]
    assert "codebook collapsed: perplexity 1.0 is not above 3.0" in tokenizer.quality(batch(4), GRID)["why"]
