"""A part as written in YAML -> its full spec: type, version, every argument. The contract is checked here."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from typing import Any, Literal

from mimbench import registry
from mimbench.config.coerce import coerce
from mimbench.errors import UserError, check_known

TARGETS = Literal["codes", "features", "distribution"]
LEVELS = tuple[Literal["patch", "image"], ...]
NOT_ARGUMENTS = ("type", "version", "origin")

# What planning and training read of a part, see mimbench.parts; on its class or on the instance
CONTRACT: dict[str, dict[str, Any]] = {
    "tokenizer": {"version": int, "target": TARGETS, "views": tuple[str, ...], "trained": bool,
                  "levels": LEVELS, "reads": Literal["views", "teacher", "student"], "width": Callable, "__call__": Callable},
    "masker": {"version": int, "constant_count": bool, "predict": Literal["masked", "all"] | float, "__call__": Callable},
    "loss": {"version": int, "expects": TARGETS, "whole_batch": bool, "__call__": Callable},
    "decoder": {"version": int, "restores_grid": bool, "levels": LEVELS, "build": Callable, "taps": Callable,
                "after_backward": Callable, "__call__": Callable},
}  # fmt: skip
OPTIONAL = ("predict", "reads", "whole_batch", "levels", "taps", "after_backward")


def resolve(kind: str, spec: Any, place: str) -> dict[str, Any]:
    """The full spec of a part; its arguments and its contract are checked."""
    if isinstance(spec, str):
        spec = {"type": spec}
    if not isinstance(spec, dict) or not isinstance(spec.get("type"), str):
        raise UserError(f"{place}: a {kind} is written `{{type: NAME, argument: value}}`, not {spec!r}.")
    cls, title = registry.part_class(kind, spec["type"], place), f"{kind} '{spec['type']}'"
    arguments = _arguments(cls, {k: v for k, v in spec.items() if k not in NOT_ARGUMENTS}, title, place)
    try:  # built once here: the part's own checks of its arguments come before any compute
        part = cls(**arguments)
    except (ValueError, TypeError) as error:
        raise UserError(f"{place}: {title}: {error}") from error
    check_contract(kind, part, f"{place}.type: '{spec['type']}'")
    if spec.get("version", part.version) != part.version:
        raise UserError(f"{place}.version: {title} is version {part.version}, not {spec['version']!r}.")
    full = {"type": spec["type"], "version": part.version, **arguments}
    if origin := registry.origin(cls):
        return {**full, "origin": origin}
    # a built-in part has one name, also where it is written as a path
    own = [name for name, known in registry.REGISTRIES[kind].module_dict.items() if known is cls]
    return {**full, "type": own[0]} if own else full


def _arguments(cls: type, given: dict[str, Any], title: str, place: str) -> dict[str, Any]:
    """Every argument, given or default, except those that have their neutral value."""
    try:
        parameters = registry.parameters(cls)
    except (ValueError, TypeError, NameError) as error:  # a class in C, an annotation that names nothing
        raise UserError(f"{place}.type: {title}: its arguments cannot be read: {error}") from error
    neutral = getattr(cls, "neutral", {})
    for key in given:
        check_known(f"{place}.{key}: {title}", "argument", key, parameters)
    arguments = {}
    for key, parameter in parameters.items():
        if key in given:
            value = coerce(parameter.annotation, given[key], f"{place}.{key}")
        elif parameter.default is inspect.Parameter.empty:
            raise UserError(f"{place}: {title} needs the argument '{key}'.")
        else:
            value = parameter.default
            with contextlib.suppress(UserError):  # but `ratio: float = None`
                value = coerce(parameter.annotation, value, "")  # `ratio: float = 1` and `ratio: 1` are one key
        if key not in neutral or value != neutral[key]:
            arguments[key] = value
    return arguments


def check_contract(kind: str, part: Any, place: str) -> None:
    """Whether it has what planning and training read of it."""
    if kind == "loss" and hasattr(part, "over"):  # the contract of version 0.1
        raise UserError(
            f"{place} is not a valid loss: which positions are predicted is the masker's `predict` since 0.2."
        )
    for name, wanted in CONTRACT[kind].items():
        if not hasattr(part, name):
            if name not in OPTIONAL:
                raise UserError(f"{place} is not a valid {kind}: missing {name} (see mimbench.parts).")
        elif wanted is not Callable:
            coerce(wanted, getattr(part, name), f"{place} is not a valid {kind}: {name}")
        elif not callable(getattr(part, name)):
            raise UserError(f"{place} is not a valid {kind}: {name} must be a method (see mimbench.parts).")
