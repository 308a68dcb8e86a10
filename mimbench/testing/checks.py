"""What the checks of all kinds share."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn

from mimbench.config.parts import check_contract
from mimbench.errors import UserError
from mimbench.parts import PatchGrid

GRID = PatchGrid(rows=6, columns=4, patch=4)  # not square: rows and columns mixed up come to light
DIM, DEPTH = 16, 12  # of the encoder


def require(condition: bool, sentence: str) -> None:
    """An assertion that `python -O` keeps."""
    if not condition:
        raise AssertionError(sentence)


def check_class(kind: str, part: object, base: type = object) -> str:
    """What planning asks of a part, a docstring, annotated arguments. Returns the name used in messages."""
    cls = type(part)
    name = cls.__name__
    require(isinstance(part, base), f"{name}: must be a subclass of mimbench.parts.{base.__name__}.")
    try:
        check_contract(kind, part, name)
    except UserError as error:
        raise AssertionError(str(error)) from error
    documented = bool((cls.__doc__ or "").split("\n")[0].strip())
    require(documented, f"{name}: needs a docstring; `mimbench list` shows its first line.")
    for key, parameter in inspect.signature(cls).parameters.items():
        annotated = parameter.annotation is not inspect.Parameter.empty
        require(annotated, f"{name}: the argument {key} needs a type annotation; values from YAML are checked by it.")
    return name


def levels(name: str, part: Any) -> tuple[Any, ...]:
    valid = bool(part.levels) and set(part.levels) <= {"patch", "image"}
    require(valid, f"{name}: levels must be of patch and image, not {part.levels!r}.")
    return tuple(part.levels)


def check_taps(name: str, taps: tuple[int, ...]) -> tuple[int, ...]:
    require(set(taps) <= set(range(DEPTH)), f"{name}: taps must be blocks in 0 .. {DEPTH - 1}, not {taps}.")
    return taps


def check_shape(name: str, what: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    require(tuple(tensor.shape) == shape, f"{name}: {what} must have the shape {shape}, not {tuple(tensor.shape)}.")


def check_gradients(name: str, module: nn.Module) -> None:
    without = [key for key, p in module.named_parameters() if p.requires_grad and p.grad is None]
    require(not without, f"{name}: no gradient reaches its parameters {', '.join(without)}.")
