"""YAML values -> the annotated Python types. PyYAML reads 1e-4 as a string and 1 and 1.0 hash apart."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import types
import typing
from typing import Annotated, Any, Literal, TypeVar, Union

from mimbench.config.ranges import Range
from mimbench.errors import UserError, check_known, nearest

T = TypeVar("T")
LARGEST = 2**63 - 1  # what an int64 holds, of torch, numpy and file formats
SHOWN = 200  # characters of a wrong value in an error


class Checked:
    """A dataclass made from YAML, with relations between its fields beside their ranges."""

    def check(self, place: str) -> None:
        """Raise a UserError at `place` where two fields contradict each other."""


def dataclass_from(cls: type[T], value: Any, place: str) -> T:
    """A mapping -> a dataclass; keys, types, ranges and relations checked. A `place` may end with a colon."""
    if not isinstance(value, dict):
        raise _wrong(place, "a mapping", value)
    hints, values = typing.get_type_hints(cls, include_extras=True), {}
    for key, written in value.items():
        inner = f"{place} {key}" if place.endswith(":") else f"{place}.{key}"
        check_known(inner, "key", key, hints)
        values[key] = coerce(hints[key], written, inner)
    for item in dataclasses.fields(cls):  # type: ignore[arg-type]
        if item.name not in values and item.default is item.default_factory is dataclasses.MISSING:
            raise UserError(f"{place.removesuffix(':')}: missing the key '{item.name}'.")
    made = cls(**values)
    if isinstance(made, Checked):
        made.check(place)
    return made


def coerce(annotation: Any, value: Any, place: str) -> Any:
    """`value` as the annotated type, or an error that names the place and what is allowed."""
    origin = typing.get_origin(annotation)
    if annotation is Any:
        return value
    if origin is Annotated:
        inner, *ranges = typing.get_args(annotation)
        value = coerce(inner, value, place)
        for rule in ranges:
            if isinstance(rule, Range) and not rule.allows(value):
                raise _wrong(place, rule.words, list(value) if isinstance(value, tuple) else value)
        return value
    if origin in (Union, types.UnionType):
        return _union(typing.get_args(annotation), value, place)
    if origin is Literal:
        return _literal(typing.get_args(annotation), value, place)
    if origin in (tuple, list):
        return _sequence(origin, typing.get_args(annotation), value, place)
    if origin is dict or annotation is dict:
        return _mapping(typing.get_args(annotation) or (Any, Any), value, place)
    if dataclasses.is_dataclass(annotation):
        return dataclass_from(typing.cast(type, annotation), value, place)
    return _scalar(annotation, value, place)


def _scalar(annotation: Any, value: Any, place: str) -> Any:
    if annotation in (bool, str) and not isinstance(value, annotation):
        raise _wrong(place, "true or false" if annotation is bool else "a string", value)
    if annotation not in (int, float):
        return value
    number = _number(value)
    if annotation is float:
        if number is None:
            raise _wrong(place, "a finite number", value)
        return float(number) + 0.0  # turns -0.0 into 0.0: one value, one hash
    if number is None or number != int(number):
        raise _wrong(place, "an integer", value)
    if abs(number) > LARGEST:
        raise _wrong(place, f"an integer between -{LARGEST} and {LARGEST}", value)
    return int(number)


def _number(value: Any) -> float | int | None:
    """A finite number, also from the strings PyYAML makes of 1e-4."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if abs(value) <= sys.float_info.max else None  # neither inf, nan, nor an integer of 400 digits


def _union(options: tuple[Any, ...], value: Any, place: str) -> Any:
    if value is None and type(None) in options:
        return None
    inner = [option for option in options if option is not type(None)]
    for option in inner:
        with contextlib.suppress(UserError):
            return coerce(option, value, place)
    return coerce(inner[0], value, place)  # raises


def _literal(options: tuple[Any, ...], value: Any, place: str) -> Any:
    if value in options:
        return value
    hint = nearest(str(value), [str(o) for o in options])
    raise UserError(f"{place}: {value!r} is not allowed.{hint} Allowed: {', '.join(map(str, options))}.")


def _sequence(origin: Any, inner: tuple[Any, ...], value: Any, place: str) -> Any:
    if not isinstance(value, list | tuple):
        raise _wrong(place, "a list", value)
    if origin is list or inner[-1] is Ellipsis:
        inner = inner[:1] * len(value)
    if len(inner) != len(value):
        raise _wrong(place, f"a list of {len(inner)}", value)
    return origin(coerce(t, v, f"{place}.{i}") for i, (t, v) in enumerate(zip(inner, value, strict=True)))


def _mapping(inner: tuple[Any, ...], value: Any, place: str) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise _wrong(place, "a mapping", value)
    return {coerce(inner[0], k, f"{place}.{k}"): coerce(inner[1], v, f"{place}.{k}") for k, v in value.items()}


def _wrong(place: str, wanted: str, value: Any) -> UserError:
    text = repr(value)
    return UserError(f"{place}: must be {wanted}, not {text if len(text) <= SHOWN else f'{text[:SHOWN]}...'}.")
