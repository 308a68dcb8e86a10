"""The contract of a decoder."""

from __future__ import annotations

import copy
import inspect
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mimbench.parts import Decoder, Encoded, Masks, PatchGrid
from mimbench.testing.checks import (
    DEPTH,
    DIM,
    GRID,
    check_class,
    check_gradients,
    check_shape,
    check_taps,
    levels,
    require,
)
from mimbench.testing.inputs import LinearHead, encoded_of, first


def check_decoder(decoder: Decoder, grid: PatchGrid = GRID, dim: int = DIM, width: int = 12) -> None:
    """One prediction per requested position, in that order, and gradients to all parameters and to the features."""
    name = check_class("decoder", decoder, Decoder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        width = dim if getattr(decoder, "keeps_width", False) else width
        _build(decoder, grid, dim, width)
        taps = check_taps(name, decoder.taps(DEPTH))
        for level in levels(name, decoder):
            for dropped in (False, True) if decoder.restores_grid else (False,):
                encoded, drawn = encoded_of(grid, dim, taps, dropped=dropped)
                masks = _asked(decoder, drawn) if level == "patch" else None
                _check_predictions(name, decoder, encoded, masks, width)
            features = (encoded.patches, encoded.cls, *encoded.taps.values())
            for feature in features:
                feature.requires_grad_()
            decoder.train().zero_grad()
            torch.autograd.backward(decoder(encoded, masks).square().sum())
            decoder.after_backward(1.0)  # at the end of the training nothing is frozen
            check_gradients(name, decoder)
            reached = any(feature.grad is not None and bool(feature.grad.any()) for feature in features)
            require(reached, f"{name}: no gradient reaches the encoder's features.")
            decoder.after_backward(0.0)


def _build(decoder: Decoder, grid: PatchGrid, dim: int, width: int) -> None:
    try:
        decoder.build(dim, width, grid)
    except ValueError:
        if "last" not in inspect.signature(decoder.build).parameters:
            raise
        # it predicts with another term's decoder
        last = LinearHead()
        last.build(dim, width, grid)
        decoder.build(dim, width, grid, last=last)


def _asked(decoder: Decoder, masks: Masks) -> Masks:
    """The positions to predict: blocks where it needs them, otherwise another number per image unless it says."""
    if getattr(decoder, "needs_blocks", False):
        order = masks.masked.nonzero()[:, 1].view(len(masks.masked), -1)
        blocks = order[:, : order.shape[1] // 2 * 2].view(len(order), 2, -1)
        flat = blocks + torch.arange(len(blocks)).view(-1, 1, 1) * masks.masked.shape[1]
        return replace(masks, predicted=flat.flatten(), blocks=blocks)
    constant = masks.kept is not None or getattr(decoder, "needs_constant_count", False)
    return masks if constant else replace(masks, predicted=masks.predicted[1:])


def _check_predictions(name: str, decoder: Decoder, encoded: Encoded, masks: Masks | None, width: int) -> None:
    decoder.train()
    shape = (len(encoded.cls) if masks is None else len(masks.predicted), width)
    prediction = decoder(encoded, masks)
    check_shape(name, "predictions", prediction, shape)
    require(bool(prediction.isfinite().all()), f"{name}: predictions must be finite.")
    prediction = decoder.eval()(encoded, masks)
    check_shape(name, "the teacher's predictions", copy.deepcopy(decoder).taught(encoded, masks), shape)
    rows: Any = getattr(decoder, "rows", None)
    if rows is not None:
        check_shape(name, "rows()", rows(encoded.patches), (*encoded.patches.shape[:2], width))
    if not getattr(decoder, "whole_batch", False):
        part = decoder(*first(encoded, masks, 2))
        alone = torch.allclose(part, prediction[: len(part)], atol=1e-5)
        require(alone, f"{name}: without whole_batch, an image's predictions must not depend on the others.")
    if masks is not None:
        order, turned = _turned(decoder, masks)
        ordered = torch.allclose(decoder(encoded, turned), prediction[order], atol=1e-5)
        require(ordered, f"{name}: predictions must follow the order of masks.predicted.")


def _turned(decoder: Decoder, masks: Masks) -> tuple[Tensor, Masks]:
    """The same positions in another order, images in order where the decoder needs it, and that order."""
    order = torch.arange(len(masks.predicted))
    if masks.blocks is not None:
        order = order.view_as(masks.blocks).flip(1).flatten()
        return order, replace(masks, predicted=masks.predicted[order], blocks=masks.blocks.flip(1))
    if getattr(decoder, "needs_constant_count", False):
        order = order.view(len(masks.masked), -1).flip(1).flatten()
    else:
        order = order.flip(0)
    return order, replace(masks, predicted=masks.predicted[order])
