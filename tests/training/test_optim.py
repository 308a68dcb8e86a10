"""Schedules and parameter groups against timm's and torch's."""

from __future__ import annotations

import pytest
import torch
from test_evals import settings
from timm.models.vision_transformer import VisionTransformer
from timm.optim import param_groups_layer_decay
from timm.scheduler.cosine_lr import CosineLRScheduler

from mimbench.config.schema import EncoderConfig, ScheduleConfig
from mimbench.evals.finetune import Classifier
from mimbench.evals.sweep import layer_decay
from mimbench.models.encoder import make_encoder
from mimbench.pretrain.optim import learning_rate, parameter_groups, weight_decay


@pytest.mark.parametrize("warmup", [0, 10])
def test_the_learning_rate_is_timms_cosine_after_a_warm_up_from_zero(warmup):
    schedule = ScheduleConfig(steps=110, warmup=warmup, lr=0.7, min_lr=0.1)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=schedule.lr)
    theirs = CosineLRScheduler(optimizer, t_initial=110 - warmup, lr_min=0.1, warmup_t=warmup, warmup_lr_init=0.0, warmup_prefix=True,
                               t_in_epochs=False)  # fmt: skip
    for step in range(110):
        theirs.step_update(step)
        assert learning_rate(schedule, step) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)


def test_weight_decay_reaches_its_end_by_torchs_half_cosine():
    schedule = ScheduleConfig(steps=50, weight_decay=0.04, weight_decay_end=0.4)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.04)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50, eta_min=0.4)
    for step in range(51):
        assert weight_decay(schedule, step) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        theirs.step()


def test_groups_of_layer_decay_and_weight_decay_are_timms():
    config = EncoderConfig(patch=4, dim=32, depth=3, heads=2, layer_scale=0.1, registers=2)
    encoder = make_encoder(config, 16, 0, masked=False)
    ours = Classifier(encoder, "mean", 5, settings("finetune"), 0)
    theirs = VisionTransformer(16, 4, embed_dim=32, depth=3, num_heads=2, num_classes=5, global_pool="avg", init_values=0.1,
                               reg_tokens=2, no_embed_class=True)  # fmt: skip

    def by_name(model, groups):
        names = {id(parameter): name.removeprefix("encoder.body.") for name, parameter in model.named_parameters()}
        return {
            names[id(p)]: (round(group["lr_scale"], 9), group["weight_decay"])
            for group in groups
            for p in group["params"]
        }

    expected = param_groups_layer_decay(theirs, 0.05, theirs.no_weight_decay(), layer_decay=0.65)
    found = by_name(ours, parameter_groups(ours, 0.05, layer_decay(encoder, 0.65)))
    assert found == by_name(theirs, expected)
