"""Merged layers -> a recipe, each key checked."""

from __future__ import annotations

import re
import typing
from typing import Annotated, Any, TypeVar

from mimbench.config import parts
from mimbench.config.coerce import coerce, dataclass_from
from mimbench.config.ranges import Range
from mimbench.config.schema import (
    ONLY,
    Checkpoint,
    DataConfig,
    EncoderConfig,
    Recipe,
    TokenizerTraining,
    WrittenSchedule,
)
from mimbench.config.terms import LINKS, TERM_PARTS, OtherEncoder, TeacherConfig, TermConfig, ViewConfig, without_links
from mimbench.errors import UserError, check_known

T = TypeVar("T")
NAME = Annotated[
    str, Range("a name of letters, digits, '-' and '_'", lambda name: bool(re.fullmatch(r"\w[\w-]*", name)))
]


def recipe_from(value: dict[str, Any]) -> Recipe:
    """Merged layers -> a recipe. Errors are written `@path: what is wrong`, for Layers.located."""

    def section(cls: type[T], key: str) -> T:
        return dataclass_from(cls, value.get(key, {}), f"@{key}")

    def mapping(key: str) -> dict[str, Any]:
        found = value.get(key)
        return coerce(dict[NAME, Any], {} if found is None else found, f"@{key}")

    pretrain = value.get("pretrain", True)
    given = dataclass_from(Checkpoint, pretrain, "@pretrain") if isinstance(pretrain, dict) else None
    start = value.get("start")
    weights = given.weights if given else None
    stated = {} if given is None else _stated(mapping("encoder"))
    recipe = Recipe(
        pretrain=given is None and coerce(bool, pretrain, "@pretrain"),
        weights=weights,
        finetuned=given.finetuned if given else None,
        stated=stated,
        start=None if start is None else dataclass_from(OtherEncoder, start, "@start"),
        masker=_part("masker", value, "@"),
        terms={name: _term(name, term, value) for name, term in mapping("terms").items()}
        or {ONLY: _term("", {}, value)},
        flat=not value.get("terms"),
        views={name: dataclass_from(ViewConfig, view, f"@views.{name}") for name, view in mapping("views").items()},
        teacher=section(TeacherConfig, "teacher") if value.get("teacher") is not None else None,
        encoder=section(EncoderConfig, "encoder") if given is None else EncoderConfig(),  # the plan finds it out
        data=section(DataConfig, "data"),
        schedule=section(WrittenSchedule, "schedule").resolved(),
        tokenizer_training=section(TokenizerTraining, "tokenizer_training"),
    )
    patch, size = recipe.encoder.patch, recipe.data.size
    if given is None and size % patch:
        raise UserError(f"@encoder.patch: {patch} does not divide the image size {size} (data.size).")
    return recipe


def _stated(written: dict[str, Any]) -> dict[str, Any]:
    """Some keys of an encoder, each checked; their relations are checked when the others are known."""
    hints = typing.get_type_hints(EncoderConfig, include_extras=True)
    for key in written:
        check_known(f"@encoder.{key}", "key", key, hints)
    return {key: coerce(hints[key], value, f"@encoder.{key}") for key, value in written.items()}


def _part(kind: str, holder: dict[str, Any], place: str) -> dict[str, Any]:
    if kind not in holder:
        raise UserError(f"{place}{kind}: missing. A recipe names a {kind}, e.g. `{kind}: {{type: NAME}}`.")
    return parts.resolve(kind, holder[kind], f"{place}{kind}")


def _term(name: str, written: Any, recipe: dict[str, Any]) -> TermConfig:
    """A term; what it does not say is the recipe's own."""
    place = f"@terms.{name}." if name else "@"
    written = coerce(dict[str, Any], written, place.removesuffix("."))
    resolved = {}
    for kind in TERM_PARTS:
        own, default = written.get(kind), recipe.get(kind)
        links: dict[str, str] = {}
        if kind == "decoder" and isinstance(own, dict):
            links = {key: coerce(str, own[key], f"{place}decoder.{key}") for key in LINKS if key in own}
            own = without_links(own)
        if isinstance(own, dict) and "same_as" not in links and isinstance(default, dict):
            own = {**default, **own} if own.get("type", default.get("type")) == default.get("type") else own
        found = default if own is None else own
        whole = "same_as" in links and not own  # the decoder is that term's
        part = {} if whole else _part(kind, {} if found is None else {kind: found}, place)
        resolved[kind] = {**part, **links}
    return dataclass_from(TermConfig, {**written, **resolved}, place.removesuffix("."))
