"""YAML values -> the annotated Python types. PyYAML reads 1e-4 as a string and 1 and 1.0 hash apart."""

from __future__ import annotations

import sys
import types
import typing
from typing import Any, Literal, Union

from mimbench.errors import UserError, nearest

LARGEST = 2**63 - 1  # what an int64 holds, of torch, numpy and file formats
SHOWN = 200  # characters of a wrong value in an error


def coerce(annotation: Any, value: Any, place: str) -> Any:
    """`value` as the annotated type, or an error naming the place and what is allowed there."""
    origin = typing.get_origin(annotation)
    if annotation is Any:
        return value
    if origin in (Union, types.UnionType):
        return _union(typing.get_args(annotation), value, place)
    if origin is Literal:
        return _literal(typing.get_args(annotation), value, place)
    if origin in (tuple, list):
        return _sequence(origin, typing.get_args(annotation), value, place)
    if origin is dict or annotation is dict:
        if not isinstance(value, dict):
            raise _wrong(place, "a mapping", value)
        return value
    return _scalar(annotation, value, place)


def _scalar(annotation: Any, value: Any, place: str) -> Any:
    if annotation is bool:
        if isinstance(value, bool):
            return value
        raise _wrong(place, "true or false", value)
    if annotation is int:
        if isinstance(value, bool):
            raise _wrong(place, "an integer", value)
        number = _number(value)
        if number is None or number != int(number):
            raise _wrong(place, "an integer", value)
        if abs(number) > LARGEST:
            raise _wrong(place, f"an integer between -{LARGEST} and {LARGEST}", value)
        return int(number)
    if annotation is float:
        number = None if isinstance(value, bool) else _number(value)
        if number is None:
            too_large = isinstance(value, int | float) and not isinstance(value, bool)
            raise _wrong(place, "a number of at most 1.8e308" if too_large else "a number", value)
        return float(number) + 0.0  # -0.0 means nothing else than 0.0, but is written otherwise
    if annotation is str:
        if not isinstance(value, str):
            raise _wrong(place, "a word", value)
        return value
    return value


def _number(value: Any) -> float | int | None:
    """A finite number, also from the strings PyYAML makes of 1e-4."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, int | float) and abs(value) <= sys.float_info.max:  # not for inf, nan, and 400 digits
        return value
    return None


def _union(options: tuple[Any, ...], value: Any, place: str) -> Any:
    if value is None and type(None) in options:
        return None
    errors = []
    for option in options:
        if option is not type(None):
            try:
                return coerce(option, value, place)
            except UserError as error:
                errors.append(error)
    raise errors[0]


def _literal(options: tuple[Any, ...], value: Any, place: str) -> Any:
    # `off` and `none` are what one types; YAML 1.1 reads the first as False
    if value is False and "off" in options:
        value = "off"
    if value is None and "none" in options:
        value = "none"
    if value in options:
        return value
    hint = nearest(str(value), [str(o) for o in options])
    raise UserError(f"{place}: {value!r} is not allowed.{hint} Allowed: {', '.join(map(str, options))}.")


def _sequence(origin: Any, inner: tuple[Any, ...], value: Any, place: str) -> Any:
    if not isinstance(value, list | tuple):
        raise _wrong(place, "a list", value)
    if (len(inner) == 2 and inner[1] is Ellipsis) or len(inner) == 1:
        return origin(coerce(inner[0], v, f"{place}.{i}") for i, v in enumerate(value))
    if len(inner) != len(value):
        raise _wrong(place, f"a list of {len(inner)}", value)
    return origin(coerce(t, v, f"{place}.{i}") for i, (t, v) in enumerate(zip(inner, value, strict=True)))


def _wrong(place: str, wanted: str, value: Any) -> UserError:
    return UserError(f"{place}: must be {wanted}, not {_short(repr(value))}.")


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
