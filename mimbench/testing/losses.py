"""The contract of a loss."""

from __future__ import annotations

from typing import Any

import torch

from mimbench.parts import Loss, WholeBatchLoss
from mimbench.testing.checks import check_class, check_shape, require


def check_loss(loss: Loss | WholeBatchLoss, width: int = 8, positions: int = 5) -> None:
    """One finite value per position, from that position only unless `whole_batch`, with a gradient; none for none."""
    name = check_class("loss", loss)
    rng = torch.Generator().manual_seed(0)
    prediction = torch.randn(positions, width, generator=rng).requires_grad_()
    if loss.expects == "codes":
        target = torch.randint(width, (positions,), generator=rng)
    else:
        target = torch.randn(positions, width, generator=rng)
    call: Any = loss
    if loss.expects == "distribution":
        target = target.softmax(-1)
    if getattr(loss, "whole_batch", False):
        values = call(prediction, target, slice(0, positions))
        cut = positions // 2
        halves = [call(prediction, target, rows) for rows in (slice(0, cut), slice(cut, positions))]
        check_shape(name, "the loss of the first rows", halves[0], (cut,))
        check_shape(name, "the loss of the last rows", halves[1], (positions - cut,))
        whole = torch.allclose(torch.cat(halves).sum(), values.sum(), rtol=1e-4)
        require(whole, f"{name}: the losses of all ranks must add up to the loss of the whole batch.")
    else:
        values = call(prediction, target)
        check_shape(name, "the loss", values, (positions,))
        alone = torch.allclose(call(prediction[:2], target[:2]), values[:2])
        require(
            alone, f"{name}: a position's loss must not depend on the other positions; the engine sums and divides."
        )
        check_shape(name, "the loss of no positions", call(prediction[:0], target[:0]), (0,))
    check_shape(name, "the loss", values, (positions,))
    require(values.dtype == torch.float32, f"{name}: the loss must be float32, not {values.dtype}.")
    require(bool(values.isfinite().all()), f"{name}: the loss must be finite.")
    (gradient,) = torch.autograd.grad(values.sum(), prediction)
    useful = bool(gradient.isfinite().all() and gradient.any(-1).all())
    require(useful, f"{name}: must have a finite gradient, not zero, for every prediction.")
