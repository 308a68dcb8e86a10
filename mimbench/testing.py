"""Contract tests for parts, ours and yours: call the check of its kind on an instance from your own tests.

    from mimbench.testing import check_masker

    def test_my_masker_keeps_the_contract():
        check_masker(MyMasker(ratio=0.5))

Each check runs in milliseconds on the CPU, restores the global random state, and raises AssertionError with a sentence
that names the part and what the contract in `mimbench.parts` requires. Pass tokenizers and decoders as constructed: the
check builds them. Every check takes a `grid`, for parts that do not support the default one.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mimbench.config.parts import check_contract
from mimbench.errors import UserError
from mimbench.parts import Decoder, Encoded, Loss, Masker, Masks, PatchGrid, Tokenizer, TrainedTokenizer

__all__ = ["CHECKS", "check_decoder", "check_loss", "check_masker", "check_tokenizer"]

GRID = PatchGrid(rows=6, columns=4, patch=4)  # not square: rows and columns mixed up come to light


def check_masker(masker: Masker, grid: PatchGrid = GRID, batch: int = 16) -> None:
    """Shape, type, constant count where it is promised, and masks that depend on the generator only."""
    name = _check_class("masker", masker)
    draws = []
    with torch.random.fork_rng(devices=[]):
        for global_seed in (1, 2):  # the same generator, another global state
            torch.manual_seed(global_seed)
            before = _global_state()
            rng = torch.Generator().manual_seed(0)
            draws.append([masker(size, (grid.rows, grid.columns), rng) for size in (batch, batch, 1)])
            _require(_global_state() == before, f"{name}: must draw from the given generator, not from a global one.")
    for mask, size in zip(draws[0], (batch, batch, 1), strict=True):
        _require(isinstance(mask, Tensor) and mask.dtype == torch.bool, f"{name}: masks must be a bool tensor.")
        _require(mask.device.type == "cpu", f"{name}: masks must be drawn on the CPU, not on {mask.device}.")
        _check_shape(name, "masks", mask, (size, grid.count))
    same = all(torch.equal(first, again) for first, again in zip(*draws, strict=True))
    _require(same, f"{name}: the same generator must give the same masks.")
    counts = sorted({count for mask in draws[0] for count in mask.sum(1).tolist()})
    constant = len(counts) == 1 or not masker.constant_count
    _require(constant, f"{name}: has constant_count, but masks {counts} patches.")


def check_loss(loss: Loss, width: int = 8, positions: int = 5) -> None:
    """One finite value per position, from that position only, with a gradient; none for no positions."""
    name = _check_class("loss", loss)
    rng = torch.Generator().manual_seed(0)
    prediction = torch.randn(positions, width, generator=rng).requires_grad_()
    if loss.expects == "codes":
        target = torch.randint(width, (positions,), generator=rng)
    else:
        target = torch.randn(positions, width, generator=rng)
    values = loss(prediction, target)
    _check_shape(name, "the loss", values, (positions,))
    _require(values.dtype == torch.float32, f"{name}: the loss must be float32, not {values.dtype}.")
    _require(bool(values.isfinite().all()), f"{name}: the loss must be finite.")
    alone = torch.allclose(loss(prediction[:2], target[:2]), values[:2])
    _require(alone, f"{name}: a position's loss must not depend on the other positions; the engine sums and divides.")
    _check_shape(name, "the loss of no positions", loss(prediction[:0], target[:0]), (0,))
    (gradient,) = torch.autograd.grad(values.sum(), prediction)
    _require(bool(gradient.isfinite().all() and gradient.any()), f"{name}: must have a finite gradient, not zero.")


def check_tokenizer(tokenizer: Tokenizer, grid: PatchGrid = GRID, batch: int = 4) -> None:
    """Targets of the declared kind, without gradient, each from its own image; training where it has one."""
    name = _check_class("tokenizer", tokenizer)
    declared = tokenizer.trained == isinstance(tokenizer, TrainedTokenizer)
    _require(declared, f"{name}: `trained` must be True for a TrainedTokenizer and False otherwise.")
    rng = torch.Generator().manual_seed(0)
    size = (batch, grid.channels, grid.rows * grid.patch, grid.columns * grid.patch)
    images = {view: torch.rand(size, generator=rng) for view in tokenizer.views}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if isinstance(tokenizer, TrainedTokenizer):
            tokenizer.build(grid)
            _check_training(name, tokenizer, images, grid)
        tokenizer.eval()
        targets, again = tokenizer(images, grid), tokenizer(images, grid)
        part = tokenizer({view: image[:2] for view, image in images.items()}, grid)
    width = tokenizer.width(grid)
    _require(isinstance(width, int) and width > 0, f"{name}: width must be a positive integer, not {width!r}.")
    _require(not targets.requires_grad, f"{name}: targets must carry no gradient.")
    if tokenizer.target == "codes":
        _check_shape(name, "codes", targets, (batch, grid.count))
        _require(targets.dtype == torch.int64, f"{name}: codes must be int64, not {targets.dtype}.")
        inside = bool((targets >= 0).all() and (targets < width).all())
        _require(inside, f"{name}: codes must lie in 0 .. {width - 1}, its width.")
    else:
        _check_shape(name, "features", targets, (batch, grid.count, width))
        _require(targets.dtype == torch.float32, f"{name}: features must be float32, not {targets.dtype}.")
        _require(bool(targets.isfinite().all()), f"{name}: features must be finite.")
    _require(torch.equal(targets, again), f"{name}: the same images must give the same targets.")
    alone = torch.allclose(part.float(), targets[:2].float(), rtol=1e-3, atol=1e-4)
    _require(alone, f"{name}: an image's targets must not depend on the other images of the batch.")


def _check_training(name: str, tokenizer: TrainedTokenizer, images: dict[str, Tensor], grid: PatchGrid) -> None:
    tokenizer.train()
    losses = []
    for progress in (0.0, 1.0, 1.0):
        torch.manual_seed(0)
        loss, values = tokenizer.training_loss(images, progress)
        _check_shape(name, "the training loss", loss, ())
        _require(bool(loss.isfinite()), f"{name}: the training loss must be finite at progress {progress}.")
        attached = [key for key, value in values.items() if value.requires_grad]
        _require(not attached, f"{name}: values to log must be detached, and these are not: {', '.join(attached)}.")
        losses.append(loss)
    _require(torch.equal(losses[1], losses[2]), f"{name}: must draw from torch's global generator only.")
    torch.autograd.backward(losses[0])
    _check_gradients(name, tokenizer)
    tokenizer.zero_grad()
    tokenizer.eval()
    quality = tokenizer.quality(images, grid)
    _require(isinstance(quality.get("usable"), bool), f"{name}: quality() must return usable: True or False.")
    _require(isinstance(quality.get("why"), str), f"{name}: quality() must return why, a sentence.")


def check_decoder(decoder: Decoder, grid: PatchGrid = GRID, dim: int = 16, width: int = 12) -> None:
    """One prediction per requested position, in that order, and gradients to all parameters and to the features."""
    name = _check_class("decoder", decoder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        decoder.build(dim, width, grid)
        for dropped in (False, True) if decoder.restores_grid else (False,):
            encoded, masks = _encoded(grid, dim, dropped)
            prediction = decoder(encoded, masks)
            _check_shape(name, "predictions", prediction, (len(masks.predicted), width))
            _require(bool(prediction.isfinite().all()), f"{name}: predictions must be finite.")
            turned = Masks(masks.masked, masks.predicted.flip(0), masks.kept, masks.total)
            decoder.eval()
            ordered = torch.allclose(decoder(encoded, turned), decoder(encoded, masks).flip(0), atol=1e-5)
            _require(ordered, f"{name}: predictions must follow the order of masks.predicted.")
            decoder.train()
        decoder.zero_grad()
        torch.autograd.backward(decoder(encoded, masks).square().sum())
    _check_gradients(name, decoder)
    reached = encoded.patches.grad is not None and bool(encoded.patches.grad.any())
    _require(reached, f"{name}: no gradient reaches the encoder's features.")


def _encoded(grid: PatchGrid, dim: int, dropped: bool, batch: int = 3) -> tuple[Encoded, Masks]:
    """An encoder's output for random masks of half the patches."""
    rng = torch.Generator().manual_seed(0)
    order = torch.rand(batch, grid.count, generator=rng).argsort(1)
    count = grid.count // 2
    hidden = torch.zeros(batch, grid.count, dtype=torch.bool).scatter_(1, order[:, :count], True)
    kept = (~hidden).nonzero()[:, 1].view(batch, -1) if dropped else None
    visible = grid.count - count if dropped else grid.count
    patches = torch.randn(batch, visible, dim, generator=rng).requires_grad_()
    predicted = hidden.flatten().nonzero().squeeze(1)
    encoded = Encoded(patches, torch.randn(batch, dim, generator=rng), kept, {})
    return encoded, Masks(hidden, predicted, kept, len(predicted))


def _check_class(kind: str, part: object) -> str:
    """What planning asks of a part, a docstring, annotated arguments. Returns the name used in messages."""
    cls = type(part)
    name = cls.__name__
    try:
        check_contract(kind, part, name)
    except UserError as error:
        raise AssertionError(str(error)) from error
    documented = bool((cls.__doc__ or "").split("\n")[0].strip())
    _require(documented, f"{name}: needs a docstring; `mimbench list` shows its first line.")
    for key, parameter in inspect.signature(cls).parameters.items():
        annotated = parameter.annotation is not inspect.Parameter.empty
        _require(annotated, f"{name}: the argument {key} needs a type annotation; values from YAML are checked by it.")
    return name


def _check_gradients(name: str, module: torch.nn.Module) -> None:
    without = [key for key, p in module.named_parameters() if p.requires_grad and p.grad is None]
    _require(not without, f"{name}: no gradient reaches its parameters {', '.join(without)}.")


def _check_shape(name: str, what: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    _require(tuple(tensor.shape) == shape, f"{name}: {what} must have the shape {shape}, not {tuple(tensor.shape)}.")


def _global_state() -> tuple[Any, ...]:
    kind, key, *rest = np.random.get_state()
    return random.getstate(), torch.get_rng_state().tolist(), kind, np.asarray(key).tolist(), rest


def _require(condition: bool, sentence: str) -> None:
    """An assertion that `python -O` keeps."""
    if not condition:
        raise AssertionError(sentence)


CHECKS: dict[str, Callable[[Any], None]] = {
    "tokenizer": check_tokenizer,
    "masker": check_masker,
    "loss": check_loss,
    "decoder": check_decoder,
}
