"""TOKENIZERS, MASKERS, LOSSES, DECODERS: mmengine registries with errors that name, list and suggest.

A part comes in by one door: a module that registers it. Ours and a stranger's are found through the entry point
group `mimbench.parts`; a dotted path in YAML (`type: my_pkg.masks.Mine`) needs no registration.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.metadata
import inspect
import sys
from typing import Any

from mmengine.registry import Registry

from mimbench.config.coerce import coerce
from mimbench.errors import UserError, nearest, unknown

ENTRY_POINTS = "mimbench.parts"

TOKENIZERS = Registry("tokenizer", scope="mimbench")
MASKERS = Registry("masker", scope="mimbench")
LOSSES = Registry("loss", scope="mimbench")
DECODERS = Registry("decoder", scope="mimbench")
REQUIRED = {
    "tokenizer": ("version", "target", "width"),
    "masker": ("version", "__call__"),
    "loss": ("version", "expects", "__call__"),
    "decoder": ("version", "restores_grid", "build"),
}  # attributes of a part's class that planning reads
REGISTRIES = {"tokenizer": TOKENIZERS, "masker": MASKERS, "loss": LOSSES, "decoder": DECODERS}


@functools.cache
def load_plugins() -> None:
    """Import every module of the entry point group, once. One that fails stops the run: a row must not vanish."""
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        try:
            entry.load()
        except Exception as error:
            owner = entry.dist.name if entry.dist else "an unknown distribution"
            raise UserError(
                f"the plug-in '{entry.name}' of {owner} ({entry.value}) failed to import: "
                f"{type(error).__name__}: {error}. Mend or uninstall {owner}."
            ) from error


def part_class(kind: str, name: str, place: str) -> Any:
    """The class registered as `name`, or at the dotted path `name`."""
    if "." in name:
        return _import_path(kind, name, place)
    load_plugins()
    modules = REGISTRIES[kind].module_dict
    if name not in modules:
        raise unknown(f"{place}.type", kind, name, modules)
    return modules[name]


def _import_path(kind: str, path: str, place: str) -> Any:
    module_name, _, attribute = path.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise UserError(f"{place}.type: cannot import {kind} '{path}': {type(error).__name__}: {error}") from error
    if not isinstance(getattr(module, attribute, None), type):
        classes = [k for k, v in vars(module).items() if isinstance(v, type)]
        raise UserError(f"{place}.type: no class '{attribute}' in {module_name}.{nearest(attribute, classes)}")
    found = getattr(module, attribute)
    missing = [name for name in REQUIRED[kind] if not hasattr(found, name)]
    if missing:
        raise UserError(f"{place}.type: '{path}' is no {kind}: it has no `{missing[0]}` (see mimbench.parts).")
    return found


def resolve(kind: str, spec: Any, place: str) -> dict[str, Any]:
    """A part as written in YAML -> its full spec: type, version, every argument; arguments checked and coerced."""
    if isinstance(spec, str):
        spec = {"type": spec}
    if not isinstance(spec, dict) or not isinstance(spec.get("type"), str):
        raise UserError(f"{place}: a {kind} is written `{{type: NAME, argument: value}}`, not {spec!r}.")
    cls = part_class(kind, spec["type"], place)
    if spec.get("version", cls.version) != cls.version:
        raise UserError(f"{place}.version: {kind} '{spec['type']}' is version {cls.version}, not {spec['version']!r}.")
    given = {k: v for k, v in spec.items() if k not in ("type", "version", "origin")}
    parameters = _parameters(cls)
    for key in given:
        if key not in parameters:
            raise unknown(f"{place}.{key}", f"argument of {kind} '{spec['type']}'", key, parameters)
    arguments: dict[str, Any] = {}
    for key, parameter in parameters.items():
        if key in given:
            value = coerce(parameter.annotation, given[key], f"{place}.{key}")
        elif parameter.default is not inspect.Parameter.empty:
            value = _default(parameter)
        else:
            raise UserError(f"{place}: {kind} '{spec['type']}' needs the argument '{key}'.")
        if key not in getattr(cls, "neutral", {}) or value != cls.neutral[key]:
            arguments[key] = value
    origin = _origin(cls)
    resolved = {"type": _own_name(kind, cls) or spec["type"], "version": cls.version, **arguments}
    if origin:
        resolved["origin"] = origin
    build_error = _try_build(cls, arguments)
    if build_error:
        raise UserError(f"{place}: {kind} '{spec['type']}': {build_error}")
    return resolved


def _default(parameter: inspect.Parameter) -> Any:
    """As if it were written in YAML: `ratio: float = 1` and `ratio: 1` are one key."""
    try:
        return coerce(parameter.annotation, parameter.default, "")
    except UserError:  # `ratio: float = None`
        return parameter.default


def _own_name(kind: str, cls: type) -> str | None:
    """What a part of ours is called, however it was written; a stranger's may be registered in this process alone."""
    if _origin(cls) is not None:
        return None
    return next((name for name, registered in REGISTRIES[kind].module_dict.items() if registered is cls), None)


@functools.cache
def _parameters(cls: type) -> dict[str, inspect.Parameter]:
    signature = inspect.signature(cls, eval_str=True)
    return {k: p for k, p in signature.parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}


@functools.cache
def _origin(cls: type) -> str | None:
    """What identifies a stranger's part: distribution and version, or the hash of its source. None for ours."""
    top = cls.__module__.split(".")[0]
    if top == "mimbench":
        return None
    owners = importlib.metadata.packages_distributions().get(top)
    if owners:
        return f"{owners[0]}=={importlib.metadata.version(owners[0])}"
    source = inspect.getsource(sys.modules[cls.__module__])
    return "source:" + hashlib.sha256(source.encode()).hexdigest()[:16]


def _try_build(cls: type, arguments: dict[str, Any]) -> str | None:
    """Construct the part once while planning: its own checks of its arguments speak before any compute."""
    try:
        cls(**arguments)
    except (ValueError, TypeError) as error:
        return str(error)
    return None


def build(kind: str, spec: dict[str, Any]) -> Any:
    """The object that a resolved spec describes."""
    cls = part_class(kind, spec["type"], kind)
    return cls(**{k: v for k, v in spec.items() if k not in ("type", "version", "origin")})


def listing(kind: str) -> list[tuple[str, str, str, str]]:
    """(name, signature, origin, first docstring line) of every registered part of a kind."""
    load_plugins()
    rows = []
    for name, cls in sorted(REGISTRIES[kind].module_dict.items()):
        summary = (inspect.getdoc(cls) or "").split("\n")[0]
        parameters = ", ".join(str(p) for p in _parameters(cls).values())
        rows.append((name, f"({parameters})", _origin(cls) or "mimbench", summary))
    return rows
