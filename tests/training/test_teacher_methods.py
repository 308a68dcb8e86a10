"""What the whole step computes for a recipe, against the losses of others on the same predictions."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from objectives import micro_of, objective_of

from mimbench.data.views import normalize

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


def seen(objective, micro, model):
    """What an encoder and its head make of every view: class scores (B, K), patch scores (B, N, K)."""
    encoder, decoders = (model.encoder, model.decoders)
    found = {}
    for copy, view in micro["views"].items():
        masks = micro["masks"].get(copy) if model is objective else None
        encoded = encoder(normalize(view["raw"]), masks)
        head = decoders["class"]
        found[copy] = (head.rows(encoded.cls), head.rows(encoded.patches), encoded.cls)
    return found


def test_ibots_step_is_lightlys_dino_loss_and_patch_loss(tmp_path):
    from lightly import loss as loss_module

    objective, recipe = objective_of(tmp_path, "ibot", tokenizer={"temperature": 0.04})
    objective.eval()
    objective.encoder.only_predicted = False
    micro = micro_of(objective, recipe)
    with torch.no_grad():
        objective.teacher.encoder.body.blocks[0].mlp.fc1.weight.mul_(1.5)  # a teacher unlike the student
        student, teacher = seen(objective, micro, objective), seen(objective, micro, objective.teacher)
        ours = objective(micro)
    crops = [f"global.{i}" for i in range(2)]
    dino = loss_module.DINOLoss(32, warmup_teacher_temp=0.04, teacher_temp=0.04, warmup_teacher_temp_epochs=1)
    copies = [*crops, *(copy for copy in student if copy not in crops)]
    expected = dino([teacher[c][0] for c in crops], [student[c][0] for c in copies], epoch=1)
    for crop in crops:
        masked = micro["masks"][crop].masked
        assert not masked.any(1).all()  # some images are whole: they count, with nothing to predict
        patches = loss_module.IBOTPatchLoss(32, teacher_temp=0.04, student_temp=0.1)
        theirs = patches(teacher[crop][1][masked], student[crop][1][masked], masked.view(-1, 8, 8))
        expected = expected + theirs / len(crops)
    torch.testing.assert_close(ours, expected, **TOLERANCE)


def test_ibots_patches_and_class_token_share_one_head_and_have_centers_of_their_own(tmp_path):
    objective, _ = objective_of(tmp_path, "ibot")
    one, other = objective.terms
    assert list(objective.decoders) == ["class"]
    assert one.tokenizer is not other.tokenizer
    assert one.tokenizer.center is not other.tokenizer.center


def test_ibots_mask_token_starts_at_zero_and_nothing_else_differs(tmp_path):
    zero, random = (objective_of(tmp_path, "ibot", encoder={"zero_mask_token": z})[0].encoder for z in (True, False))
    ours, theirs = zero.state_dict(), random.state_dict()
    assert not ours.pop("mask_token").any()
    assert theirs.pop("mask_token").all()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def projected(objective, micro):
    """Queries of the student and keys of the teacher by crop."""
    head, teacher = objective.decoders["pair"], objective.teacher
    images = {copy: normalize(view["raw"]) for copy, view in micro["views"].items()}
    queries = [head.predict(head.project(objective.encoder(image).cls)) for image in images.values()]
    return queries, [teacher.decoders["pair"].project(teacher.encoder(image).cls) for image in images.values()]


def test_moco_v3s_step_is_the_sum_of_both_directions(tmp_path):
    objective, recipe = objective_of(tmp_path, "mocov3")
    micro = micro_of(objective, recipe)
    with torch.no_grad():
        ours, (queries, keys) = objective(micro), projected(objective, micro)
    unit = lambda x: x / x.norm(dim=1, keepdim=True)
    scores = [unit(q) @ unit(k).T / 0.2 for q, k in zip(queries, reversed(keys), strict=True)]
    expected = sum(2 * 0.2 * -(s.log_softmax(1).diagonal()).mean() for s in scores)
    torch.testing.assert_close(ours, expected, **TOLERANCE)


def test_byols_step_is_lightlys_loss_of_both_directions(tmp_path):
    from lightly import loss as loss_module

    objective, recipe = objective_of(tmp_path, "byol")
    micro = micro_of(objective, recipe)
    with torch.no_grad():
        ours, (queries, keys) = objective(micro), projected(objective, micro)
    cosine = loss_module.NegativeCosineSimilarity()
    expected = sum(2 + 2 * cosine(q, k) for q, k in zip(queries, reversed(keys), strict=True))
    torch.testing.assert_close(ours, expected, **TOLERANCE)


def test_vicregs_step_is_lightlys_loss(tmp_path):
    from lightly import loss as loss_module

    objective, recipe = objective_of(tmp_path, "vicreg")
    micro = micro_of(objective, recipe)
    with torch.no_grad():
        head = objective.decoders["pair"].project
        one, other = (head(objective.encoder(normalize(v["raw"])).cls) for v in micro["views"].values())
        torch.testing.assert_close(objective(micro), loss_module.VICRegLoss()(one, other), **TOLERANCE)


def test_frozen_patches_stay_as_they_were_initialized_in_pretraining_and_are_fine_tuned(tmp_path):
    from mimbench.config.schema import EncoderConfig, from_spec
    from mimbench.models.encoder import make_encoder
    from mimbench.plan.pairing import architecture

    objective, recipe = objective_of(tmp_path, "mocov3")
    objective(micro_of(objective, recipe)).backward()
    embedding = objective.encoder.body.patch_embed.proj
    assert embedding.weight.grad is None
    assert objective.encoder.body.blocks[0].mlp.fc1.weight.grad.any()
    config = from_spec(EncoderConfig, recipe["encoder"])
    evaluated = make_encoder(from_spec(EncoderConfig, architecture(config)), 32, seed=0)
    assert torch.equal(evaluated.body.patch_embed.proj.weight, embedding.weight)
    assert evaluated.body.patch_embed.proj.weight.requires_grad


def test_caes_step_is_the_loss_of_the_decoder_after_the_regressor_and_twice_the_regressors_own(tmp_path):
    """With pixels for tokens, which need no tokenizer that was trained."""
    colors = {"tokenizer": {"type": "pixels"}, "loss": "mse"}
    objective, recipe = objective_of(tmp_path, "cae", terms={"tokens": colors})
    micro = micro_of(objective, recipe)
    (masks,), (view,) = micro["masks"].values(), micro["views"].values()
    image, hidden = normalize(view["raw"]), masks.masked
    with torch.no_grad():
        ours, regressor, blocks = objective(micro), objective.decoders["align"], objective.decoders["tokens"]
        encoded = objective.encoder(image, masks)
        latent = regressor(encoded, masks)
        only_hidden = (hidden.nonzero()[:, 1]).view(len(hidden), -1)
        target = objective.encoder(image, replace(masks, kept=only_hidden)).patches.flatten(0, 1)
        x = (latent + blocks.positions.expand(len(hidden), -1, -1)[hidden]).view(len(hidden), -1, latent.shape[1])
        for block in blocks.blocks:
            x = block(x)
        predicted = blocks.project(blocks.norm(x)).flatten(0, 1)
    cells = image.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)  # (B, N, 48)
    expected = F.mse_loss(predicted, cells[hidden]) + 2 * F.mse_loss(latent, target)
    torch.testing.assert_close(ours, expected, **TOLERANCE)


def test_caes_tokens_send_their_gradient_through_the_regressor_and_none_to_the_teacher(tmp_path):
    objective, recipe = objective_of(
        tmp_path, "cae", terms={"tokens": {"tokenizer": "pixels", "loss": "mse"}, "align": {"weight": 0.0}}
    )
    objective(micro_of(objective, recipe)).backward()
    assert objective.decoders["align"].mask_token.grad.any()
    assert objective.encoder.body.patch_embed.proj.weight.grad.any()
    assert all(p.grad is None for p in objective.teacher.parameters())


def test_dinov2s_step_is_balanced_cross_entropies_and_a_tenth_of_koleo_per_crop(tmp_path):
    from lightly import loss as loss_module
    from lightly.loss import swav_loss

    objective, recipe = objective_of(tmp_path, "dinov2")
    objective.encoder.only_predicted = False
    micro = micro_of(objective, recipe)
    with torch.no_grad():
        objective.teacher.encoder.body.blocks[0].mlp.fc1.weight.mul_(1.5)
        student, teacher = seen(objective, micro, objective), seen(objective, micro, objective.teacher)
        ours = objective(micro)
    balanced = lambda scores: swav_loss.sinkhorn(scores, iterations=3, epsilon=0.04)  # the temperature at the start
    crops, expected = [f"global.{i}" for i in range(2)], torch.zeros(())
    pairs = [(crop, copy) for crop in crops for copy in student if copy != crop]
    for crop, copy in pairs:
        expected += F.cross_entropy(student[copy][0] / 0.1, balanced(teacher[crop][0])) / len(pairs)
    for crop in crops:
        masked = micro["masks"][crop].masked
        each = F.cross_entropy(student[crop][1][masked] / 0.1, balanced(teacher[crop][1][masked]), reduction="none")
        by_image = [values.mean() for values in each.split(masked.sum(1).tolist()) if len(values)]
        expected += sum(by_image) / len(masked) / len(crops)
        expected += 0.1 * loss_module.KoLeoLoss()(student[crop][2])
    torch.testing.assert_close(ours, expected, **TOLERANCE)
