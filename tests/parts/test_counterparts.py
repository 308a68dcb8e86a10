"""New parts against implementations that are not ours: lightly, timm, and golden figures of official code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mimbench import registry
from mimbench.parts import Encoded, Masks, PatchGrid, Taught


def wave(*shape, pace=1.0):
    count = torch.Size(shape).numel()
    return torch.sin(pace * torch.arange(1, count + 1, dtype=torch.float64)).float().view(shape)


def encoded(patches, cls=None, **more):
    return Encoded(patches, patches[:, 0] if cls is None else cls, None, {}, **more)


def test_hog_puts_a_ramp_into_one_bin_and_a_flat_image_into_none():
    hog, grid = registry.build("tokenizer", {"type": "hog"}), PatchGrid(2, 2, 16)
    ramp = torch.linspace(0, 1, 32).expand(1, 3, 32, 32)
    for image, only in ((ramp, 4), (ramp.transpose(2, 3), 0), (1 - ramp, 4)):
        found = hog({"image": image}, grid).view(1, 4, 3, 9, 2, 2)
        assert (found[:, :, :, only] > 0).all()
        assert found.sum().item() == pytest.approx(found[:, :, :, only].sum().item(), rel=1e-5)
    assert torch.equal(hog({"image": torch.ones(1, 3, 32, 32)}, grid), torch.zeros(1, 4, 108))


def test_self_distillation_with_soft_cross_entropy_is_lightlys_dino_loss():
    from lightly import loss as loss_module

    theirs = loss_module.DINOLoss(
        output_dim=12, warmup_teacher_temp=0.04, teacher_temp=0.04, warmup_teacher_temp_epochs=1
    )
    tokenizer = registry.build("tokenizer", {"type": "self_distillation", "prototypes": 12})
    loss = registry.build("loss", {"type": "soft_cross_entropy"})

    class Head:
        rows = staticmethod(lambda x: x)

    teacher, student = [wave(5, 12, pace=p) for p in (1.1, 1.7)], [wave(5, 12, pace=p) for p in (0.4, 0.9, 2.3)]
    for _ in range(3):  # the center moves
        expected = theirs(teacher, student, epoch=2)
        targets = [tokenizer(Taught(encoded(t[:, None], t), Head(), 0.5), None, "image") for t in teacher]
        pairs = [(t, s) for t in range(2) for s in range(3) if t != s]
        ours = sum(loss(student[s], targets[t]).mean() for t, s in pairs) / len(pairs)
        tokenizer.after_step(1)
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_nt_xent_is_lightlys():
    from lightly import loss as loss_module

    one, other = wave(6, 10, pace=1.3), wave(6, 10, pace=0.7)
    ours = registry.build("loss", {"type": "nt_xent", "temperature": 0.2})
    mean = (ours(one, other, slice(0, 6)).mean() + ours(other, one, slice(0, 6)).mean()) / 2
    torch.testing.assert_close(mean, loss_module.NTXentLoss(0.2)(one, other), rtol=1e-5, atol=1e-5)


def test_cosine_is_lightlys_negative_cosine_similarity_and_one():
    from lightly import loss as loss_module

    one, other = wave(6, 10, pace=1.3), wave(6, 10, pace=0.7)
    ours = registry.build("loss", {"type": "cosine"})(one, other)
    torch.testing.assert_close(
        ours.mean() - 1, loss_module.NegativeCosineSimilarity()(one, other), rtol=1e-5, atol=1e-5
    )


def test_the_predictor_is_lightlys_ijepa_predictor():
    from lightly.models import modules

    grid, dim = PatchGrid(4, 4, 4), 16
    ours = registry.build("decoder", {"type": "predictor", "dim": 8, "depth": 2, "heads": 2})
    ours.build(dim, dim, grid)
    theirs = modules.IJEPAPredictorTIMM(num_patches=16, depth=2, mlp_dim=dim, predictor_embed_dim=8, num_heads=2)
    names = {
        "embed": "predictor_embed",
        "project": "predictor_proj",
        "blocks": "decoder.blocks",
        "norm": "decoder.norm",
    }
    state = {}
    for key, value in ours.state_dict().items():
        head, _, rest = key.partition(".")
        state["decoder.mask_token" if head == "mask_token" else f"{names[head]}.{rest}"] = value
    state["decoder.pos_embed"] = ours.positions.unsqueeze(0)
    theirs.load_state_dict(state)
    kept, blocks = torch.tensor([[0, 3, 5, 6], [1, 2, 9, 15]]), torch.tensor([[[8, 9], [12, 13]], [[4, 5], [10, 11]]])
    context = wave(2, 4, dim)
    masks = Masks(torch.ones(2, 16, dtype=torch.bool), torch.empty(0), kept, 8, blocks)
    found = ours(Encoded(context, context[:, 0], kept, {}), masks).view(2, 2, 2, dim)
    expected = theirs(context.clone(), [kept], [blocks[:, 0], blocks[:, 1]]).view(2, 2, 2, dim)  # (block, image, ...)
    torch.testing.assert_close(found, expected.transpose(0, 1), rtol=1e-5, atol=1e-5)


def test_the_predictor_of_a_vit_h_has_the_published_size():
    predictor = registry.build("decoder", {"type": "predictor", "dim": 384, "depth": 12})
    with torch.device("meta"):
        predictor.build(1280, 1280, PatchGrid(16, 16, 14))
    assert sum(p.numel() for p in predictor.parameters()) == 22_279_424


def test_the_head_of_dino_has_the_published_size():
    head = registry.build("decoder", {"type": "prototypes"})
    with torch.device("meta"):
        head.build(768, 65536, PatchGrid(14, 14, 16))
    assert sum(p.numel() for p in head.parameters()) == 23_073_024


def test_clusters_are_those_of_the_official_code():
    golden = json.loads((Path(__file__).parents[1] / "golden" / "capi_clustering.json").read_text())
    tokenizer = registry.build("tokenizer", {"type": "clusters", "clusters": 7})
    tokenizer.build(5, 1)
    with torch.no_grad():
        tokenizer.head.weight.copy_(wave(7, 5, pace=0.7))
        tokenizer.head.bias.copy_(0.1 * wave(7, pace=2.1))
    taught = Taught(encoded(wave(6, 4, 5, pace=1.3)), None, 0.0)
    with torch.no_grad():
        found = tokenizer(taught, None, "patch")
    torch.testing.assert_close(found.flatten(), torch.tensor(golden["assignments"]), rtol=1e-5, atol=1e-5)
    loss = tokenizer.own_loss(taught, found)
    assert loss.item() == pytest.approx(golden["loss"], abs=1e-5)
    loss.backward()
    assert tokenizer.head.weight.grad.any()


def test_data2vecs_targets_are_normalized_per_patch():
    tokenizer = registry.build("tokenizer", {"type": "latent", "layers": 2, "normalize_mean": True})
    tokenizer.build(8, 4)
    taps = {block: wave(2, 5, 8, pace=1 + block) for block in tokenizer.taps()}
    assert set(taps) == {2, 3}
    found = tokenizer(Taught(Encoded(wave(2, 4, 8), wave(2, 8), None, taps), None, 0.0), None, "patch")
    normal = lambda x: (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(found, normal((normal(taps[2][:, 1:]) + normal(taps[3][:, 1:])) / 2))


def test_batch_norm_is_torchs_in_training():
    from mimbench.models.norm import BatchNorm

    ours, theirs, x = BatchNorm(6), torch.nn.BatchNorm1d(6), wave(9, 6)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


def test_the_aggregated_head_reads_the_last_class_token_and_inner_patches():
    linear = registry.build("decoder", {"type": "linear"})
    linear.build(8, 5, PatchGrid(2, 2, 4))
    head = registry.build("decoder", {"type": "aggregated", "layer": 2, "depth": 1, "heads": 2})
    head.build(8, 5, PatchGrid(2, 2, 4), last=linear)
    assert head.taps(4) == (1, 3)
    taps, norm = {1: wave(1, 5, 8), 3: wave(1, 5, 8, pace=2)}, torch.nn.LayerNorm(8)
    masks = Masks(torch.ones(1, 4, dtype=torch.bool), torch.tensor([0, 2]), None, 2)
    found = head(Encoded(wave(1, 4, 8), wave(1, 8), None, taps, norm), masks)
    mixed = norm(head.blocks[0](torch.cat([taps[3][:, :1], taps[1][:, 1:]], 1)))
    torch.testing.assert_close(found, linear.project(mixed[0, [1, 3]]))
    assert {id(p) for p in linear.parameters()} <= {id(p) for p in head.parameters()}  # trained by both terms


def test_cross_attention_keeps_predicted_positions_apart():
    decoder, grid = registry.build("decoder", {"type": "cross_attention", "depth": 2, "heads": 2}), PatchGrid(2, 3, 4)
    decoder.build(8, 5, grid)
    kept = torch.tensor([[0, 4], [1, 5]])
    memory = Encoded(wave(2, 2, 8), wave(2, 8), kept, {})
    masks = lambda predicted: Masks(torch.ones(2, 6, dtype=torch.bool), torch.tensor(predicted), kept, 4)
    both, first = decoder(memory, masks([1, 2, 6, 9])), decoder(memory, masks([1, 6]))
    torch.testing.assert_close(both[[0, 2]], first)


def test_cross_attention_is_torchs_multi_head_attention_to_what_is_visible():
    decoder, grid = registry.build("decoder", {"type": "cross_attention", "depth": 2, "heads": 2}), PatchGrid(2, 3, 4)
    decoder.build(8, 5, grid)
    kept, places = torch.tensor([[0, 4], [1, 5]]), torch.tensor([[1, 2], [0, 3]])
    visible, cls = wave(2, 2, 8), wave(2, 8)
    masks = Masks(torch.ones(2, 6, dtype=torch.bool), (places + torch.tensor([[0], [6]])).flatten(), kept, 4)
    memory = torch.cat([cls[:, None], visible + decoder.positions[kept]], dim=1)
    x = decoder.mask_token + decoder.positions[places]
    for block in decoder.blocks:
        theirs = torch.nn.MultiheadAttention(8, 2, batch_first=True)
        theirs.in_proj_weight.data = torch.cat([block.query.weight, block.key_value.weight])
        theirs.in_proj_bias.data = torch.cat([block.query.bias, block.key_value.bias])
        theirs.out_proj = block.project
        x = x + theirs(block.norm_query(x), memory, memory)[0]
        x = x + block.mlp(block.norm_mlp(x))
    expected = decoder.head(decoder.norm(x)).flatten(0, 1)
    torch.testing.assert_close(decoder(Encoded(visible, cls, kept, {}), masks), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("grid", [(8, 8), (14, 14), (6, 10)])
def test_multiblock_keeps_a_context_apart_from_its_blocks(grid):
    masker = registry.build("masker", {"type": "multiblock", "min_keep": 4})
    masked, blocks = masker.blocks(64, grid, torch.Generator().manual_seed(0))
    visible = (~masked).sum(1)
    assert (visible == visible[0]).all()
    assert visible[0] >= 1
    assert masked.gather(1, blocks.flatten(1)).all()  # what is to be predicted is hidden
    size = blocks.shape[2]
    for block in blocks.flatten(0, 1)[:32]:
        rows, columns = block // grid[1], block % grid[1]
        assert (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1) == size


@pytest.mark.parametrize("grid", [(8, 8), (14, 14), (6, 10)])
def test_inverse_block_leaves_one_rectangle_around_the_borders(grid):
    masker = registry.build("masker", {"type": "inverse_block"})
    masks = masker(256, grid, torch.Generator().manual_seed(0)).view(256, *grid)
    patches = grid[0] * grid[1]
    assert (masks.sum((1, 2)) == round(0.65 * patches)).all()
    for visible in ~masks[:32]:
        assert visible.any(1).sum() * visible.any(0).sum() < (~masks[0]).sum() + max(
            grid
        )  # a rectangle, but for its last row
    everywhere = (~masks).float().mean(0)
    assert everywhere.min() > 0.2
    assert everywhere.max() < 0.5
