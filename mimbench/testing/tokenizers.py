"""The contracts of tokenizers: of views, of the teacher, of the student."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor

from mimbench.parts import PatchGrid, StudentTokenizer, Taught, TeacherTokenizer, Tokenizer, TrainedTokenizer
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
from mimbench.testing.inputs import LinearHead, LinearTeacher, encoded_of, first


def check_tokenizer(tokenizer: Tokenizer, grid: PatchGrid = GRID, batch: int = 4) -> None:
    """Targets of the declared kind, without gradient, each from its own image; training where it has one."""
    name = check_class("tokenizer", tokenizer, Tokenizer)
    declared = tokenizer.trained == isinstance(tokenizer, TrainedTokenizer)
    require(declared, f"{name}: `trained` must be True for a TrainedTokenizer and False otherwise.")
    for base, source in ((TeacherTokenizer, "teacher"), (StudentTokenizer, "student")):
        declared = (tokenizer.reads == source) == isinstance(tokenizer, base)
        require(declared, f"{name}: `reads` must be {source} for a {base.__name__}, and for no other.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if isinstance(tokenizer, TeacherTokenizer):
            _check_teacher(name, tokenizer, grid, batch)
        elif isinstance(tokenizer, StudentTokenizer):
            tokenizer.build(DIM, DEPTH)
            _check_width(name, tokenizer, grid)
        else:
            _check_reader(name, tokenizer, grid, batch)


def _check_reader(name: str, tokenizer: Tokenizer, grid: PatchGrid, batch: int) -> None:
    """Of a tokenizer that reads views."""
    allowed = levels(name, tokenizer)
    require(len(allowed) == 1, f"{name}: a tokenizer that reads views works at one level, not at {allowed}.")
    rng = torch.Generator().manual_seed(0)
    pixels = tokenizer.stride or grid.patch
    size = (batch, grid.channels, grid.rows * pixels, grid.columns * pixels)
    if getattr(tokenizer, "files", ()):
        tokenizer.load()
    views = {view: torch.rand(size, generator=rng) for view in tokenizer.views if view != "label"}
    if "label" in tokenizer.views:
        views["label"] = torch.arange(batch) % 2
    if isinstance(tokenizer, TrainedTokenizer):
        tokenizer.build(grid)
        used = copy.deepcopy(tokenizer)
        if tokenizer.needs_teacher:
            tokenizer.learn_from(LinearTeacher(grid, DIM, DEPTH))
        image = torch.rand(size, generator=rng)
        _check_training(name, tokenizer, {**views, "image": image}, grid)
        trained = tokenizer.state_dict()
        used.load_state_dict({key: trained[key] for key in used.state_dict()})
        tokenizer = used  # in pre-training there is no teacher
    tokenizer.eval()
    targets, again = tokenizer(views, grid), tokenizer(views, grid)
    part = tokenizer({key: view[:2] for key, view in views.items()}, grid)
    _check_targets(name, tokenizer, grid, allowed[0], batch, targets)
    _check_repeatable(name, targets, again, part)
    if decode := getattr(tokenizer, "decode", None):
        check_shape(name, "the decoded images", decode(targets, views, grid), size)


def _check_teacher(name: str, tokenizer: TeacherTokenizer, grid: PatchGrid, batch: int) -> None:
    """Of a tokenizer that reads the teacher, called as the step calls it."""
    tokenizer.build(DIM, DEPTH)
    head = LinearHead()
    head.build(DIM, _check_width(name, tokenizer, grid), grid)
    encoded, masks = encoded_of(grid, DIM, check_taps(name, tokenizer.taps()), batch=batch)
    taught = Taught(encoded, head.requires_grad_(False), progress=0.5)
    fewer, fewer_masks = first(encoded, masks, 2)
    for level in levels(name, tokenizer):
        with torch.no_grad():
            targets = tokenizer(taught, masks, level)
            part = tokenizer(replace(taught, encoded=fewer), fewer_masks, level)
            again = tokenizer(taught, masks if level == "patch" else None, level)
        _check_targets(name, tokenizer, grid, level, batch, targets)
        _check_repeatable(name, targets, again, None if tokenizer.whole_batch else part)
        _check_own_loss(name, tokenizer, taught, targets)
        before = [parameter.clone() for parameter in tokenizer.parameters()]
        tokenizer.after_step(1)
        same = all(torch.equal(*pair) for pair in zip(before, tokenizer.parameters(), strict=True))
        require(same, f"{name}: after_step may move buffers; parameters are the optimizer's.")
        with torch.no_grad():
            _check_targets(name, tokenizer, grid, level, batch, tokenizer(taught, masks, level))


def _check_own_loss(name: str, tokenizer: TeacherTokenizer, taught: Taught, targets: Tensor) -> None:
    loss, own = tokenizer.own_loss(taught, targets), [p for p in tokenizer.parameters() if p.requires_grad]
    trained = (loss is not None and loss.requires_grad) == bool(own)
    require(trained, f"{name}: own_loss must have a gradient to its own parameters, and be None if it has none.")
    if loss is None:
        return
    check_shape(name, "own_loss", loss, ())
    require(bool(loss.isfinite()), f"{name}: own_loss must be finite.")
    torch.autograd.backward(loss)
    check_gradients(name, tokenizer)
    tokenizer.zero_grad()
    unknown = tokenizer.own_optimizer().keys() - torch.optim.AdamW(own).defaults.keys()
    require(not unknown, f"{name}: own_optimizer: AdamW has no setting {', '.join(sorted(unknown))}.")


def _check_width(name: str, tokenizer: Tokenizer, grid: PatchGrid) -> int:
    width = tokenizer.width(grid)
    require(isinstance(width, int) and width > 0, f"{name}: width must be a positive integer, not {width!r}.")
    return width


def _check_targets(name: str, tokenizer: Tokenizer, grid: PatchGrid, level: str, batch: int, targets: Tensor) -> None:
    width, target = _check_width(name, tokenizer, grid), tokenizer.target
    shape = (batch, grid.count) if level == "patch" else (batch,)
    require(not targets.requires_grad, f"{name}: targets must carry no gradient.")
    if target == "codes":
        check_shape(name, "codes", targets, shape)
        require(targets.dtype == torch.int64, f"{name}: codes must be int64, not {targets.dtype}.")
        inside = bool((targets >= 0).all() and (targets < width).all())
        require(inside, f"{name}: codes must lie in 0 .. {width - 1}, its width.")
        return
    check_shape(name, target, targets, (*shape, width))
    require(targets.dtype == torch.float32, f"{name}: {target} must be float32, not {targets.dtype}.")
    require(bool(targets.isfinite().all()), f"{name}: {target} must be finite.")
    if target == "distribution":
        sums = bool((targets >= 0).all()) and torch.allclose(targets.sum(-1), torch.ones(shape), atol=1e-3)
        require(sums, f"{name}: a distribution's values must not be negative, and must sum to 1.")


def _check_repeatable(name: str, targets: Tensor, again: Tensor, part: Tensor | None) -> None:
    require(torch.equal(targets, again), f"{name}: the same images must give the same targets.")
    alone = part is None or torch.allclose(part.float(), targets[:2].float(), rtol=1e-3, atol=1e-4)
    require(alone, f"{name}: an image's targets must not depend on the other images of the batch.")


def _check_training(name: str, tokenizer: TrainedTokenizer, views: dict[str, Tensor], grid: PatchGrid) -> None:
    if tokenizer.at_once:
        tokenizer.find(views["raw"])
    else:
        _check_steps(name, tokenizer, views)
    tokenizer.eval()
    quality = tokenizer.quality(views, grid)
    require(isinstance(quality.get("usable"), bool), f"{name}: quality() must return usable: True or False.")
    require(isinstance(quality.get("why"), str), f"{name}: quality() must return why, a sentence.")


def _check_steps(name: str, tokenizer: TrainedTokenizer, views: dict[str, Tensor]) -> None:
    tokenizer.train()
    losses = []
    for progress in (0.0, 1.0, 1.0):
        torch.manual_seed(0)
        loss, values = tokenizer.training_loss(views, progress)
        check_shape(name, "the training loss", loss, ())
        require(bool(loss.isfinite()), f"{name}: the training loss must be finite at progress {progress}.")
        attached = [key for key, value in values.items() if value.requires_grad]
        require(not attached, f"{name}: values to log must be detached, and these are not: {', '.join(attached)}.")
        losses.append(loss)
    require(torch.equal(losses[1], losses[2]), f"{name}: must draw from torch's global generator only.")
    torch.autograd.backward(losses[0])
    check_gradients(name, tokenizer)
    tokenizer.zero_grad()
    before = [parameter.clone() for parameter in tokenizer.parameters()]
    tokenizer.after_step(1)
    same = all(torch.equal(*pair) for pair in zip(before, tokenizer.parameters(), strict=True))
    require(same, f"{name}: after_step may move buffers; parameters are the optimizer's.")
