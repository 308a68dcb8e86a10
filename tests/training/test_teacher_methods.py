"""What the whole step computes for a recipe, against the losses of others on the same predictions."""

from __future__ import annotations

import torch
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
