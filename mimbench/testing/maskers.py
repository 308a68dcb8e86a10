"""The contract of a masker."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mimbench.parts import PatchGrid
from mimbench.testing.checks import GRID, check_class, check_shape, require


def check_masker(masker: Any, grid: PatchGrid = GRID, batch: int = 16) -> None:
    """Shape, type, constant count where it is promised, and masks that depend on the generator only."""
    name, shape = check_class("masker", masker), (grid.rows, grid.columns)
    predict = getattr(masker, "predict", "masked")
    require(isinstance(predict, str) or 0 < predict < 1, f"{name}: predict: a share must lie between 0 and 1.")
    draw = masker.blocks if hasattr(masker, "blocks") else lambda *arguments: (masker(*arguments),)
    draws = []
    with torch.random.fork_rng(devices=[]):
        for global_seed in (1, 2):  # the same generator, another global state
            torch.manual_seed(global_seed)
            before, rng = _global_state(), torch.Generator().manual_seed(0)
            draws.append([draw(size, shape, rng) for size in (batch, batch, 1)])
            require(_global_state() == before, f"{name}: must draw from the given generator, not from a global one.")
    for (mask, *blocks), size in zip(draws[0], (batch, batch, 1), strict=True):
        require(isinstance(mask, Tensor) and mask.dtype == torch.bool, f"{name}: masks must be a bool tensor.")
        require(mask.device.type == "cpu", f"{name}: masks must be drawn on the CPU, not on {mask.device}.")
        check_shape(name, "masks", mask, (size, grid.count))
        counts = sorted(set(mask.sum(1).tolist()))
        constant = len(counts) == 1 or not masker.constant_count
        require(constant, f"{name}: has constant_count, but masks {counts} patches.")
        for positions in blocks:
            _check_blocks(name, mask, positions)
    pairs = [pair for one, again in zip(*draws, strict=True) for pair in zip(one, again, strict=True)]
    same = all(torch.equal(one, again) for one, again in pairs)
    require(same, f"{name}: the same generator must give the same masks.")
    if hasattr(masker, "noise"):
        _check_noise(name, masker, shape, draws[0][0][0])
    called = torch.equal(masker(batch, shape, torch.Generator().manual_seed(0)), draws[0][0][0])
    require(called, f"{name}: blocks() must hide what a call with the same generator hides.")


def _check_noise(name: str, masker: Any, shape: tuple[int, int], masks: Tensor) -> None:
    noise = masker.noise(len(masks), shape, torch.Generator().manual_seed(0))
    check_shape(name, "noise", noise, tuple(masks.shape))
    require(masker.constant_count, f"{name}: a masker with noise needs constant_count: what is visible is found later.")
    require(bool(noise.isfinite().all()), f"{name}: noise must be finite.")
    hides = torch.where(masks, noise, -torch.inf).amax(1) <= torch.where(masks, torch.inf, noise).amin(1)
    require(bool(hides.all()), f"{name}: a call must hide the patches with the smallest noise of the same generator.")


def _check_blocks(name: str, mask: Tensor, blocks: Tensor) -> None:
    listed = blocks.dtype == torch.int64 and blocks.ndim == 3 and len(blocks) == len(mask)
    require(listed, f"{name}: blocks must be int64 of shape (batch, blocks, patches).")
    inside = bool((blocks >= 0).all() and (blocks < mask.shape[1]).all())
    require(inside, f"{name}: blocks must be positions in the grid.")
    require(bool(mask.gather(1, blocks.flatten(1)).all()), f"{name}: must hide the blocks to predict.")
    require(bool((blocks.sort().values.diff() > 0).all()), f"{name}: a block must list each of its patches once.")


def _global_state() -> tuple[Any, ...]:
    kind, key, *rest = np.random.get_state()
    return random.getstate(), torch.get_rng_state().tolist(), kind, np.asarray(key).tolist(), rest
