"""Learning rate and parameter groups."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from mimbench.config.schema import NO_DECAY, ScheduleConfig


def learning_rate(schedule: ScheduleConfig, step: int) -> float:
    """Of step 0, 1, ...: linear warm-up from 0, then half a cosine or a line that reaches min_lr after the last step."""
    if step < schedule.warmup:
        return schedule.lr * step / schedule.warmup
    if schedule.decay == "step":
        return schedule.lr * 0.1 ** sum(step >= drop * schedule.steps for drop in schedule.drops)
    done = (step - schedule.warmup) / max(1, schedule.steps - schedule.warmup)
    if schedule.decay == "linear":
        return schedule.min_lr + (schedule.lr - schedule.min_lr) * (1 - done)
    return schedule.min_lr + 0.5 * (schedule.lr - schedule.min_lr) * (1 + math.cos(math.pi * done))


def set_rates(optimizer: torch.optim.Optimizer, schedule: ScheduleConfig, step: int) -> float:
    """Learning rate and weight decay of this step, in the groups that follow the schedule. Returns the former."""
    lr = learning_rate(schedule, step)
    for group in optimizer.param_groups:
        if "lr_scale" in group:
            group["lr"] = lr * group["lr_scale"]
            if schedule.weight_decay_end is not None and group["weight_decay"]:
                group["weight_decay"] = weight_decay(schedule, step)
    return lr


def weight_decay(schedule: ScheduleConfig, step: int) -> float:
    """Half a cosine from its value to weight_decay_end (DINO, I-JEPA)."""
    start, end = schedule.weight_decay, schedule.weight_decay_end
    assert end is not None
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * step / schedule.steps))


def parameter_groups(
    model: nn.Module,
    weight_decay: float,
    scale: Callable[[str], float] = lambda name: 1.0,
    without: Iterable[dict[str, Any]] = (),
    no_decay: tuple[str, ...] = NO_DECAY,
) -> list[dict[str, Any]]:
    """`no_decay`: ends of the names that do not decay; `vectors` stands for all with one dimension.

    `scale` multiplies a parameter's learning rate. `without`: groups whose parameters are left out.
    """
    others = {id(parameter) for group in without for parameter in group["params"]}
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad or id(parameter) in others:
            continue
        bare = ("vectors" in no_decay and parameter.ndim <= 1) or name.endswith(no_decay)
        key = (0.0 if bare else weight_decay, scale(name))
        group = groups.setdefault(key, {"params": [], "weight_decay": key[0], "lr_scale": key[1]})
        group["params"].append(parameter)
    return list(groups.values())
