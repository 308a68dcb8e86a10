"""TOKENIZERS, MASKERS, LOSSES, DECODERS: mmengine registries with errors that name, list and suggest.

Modules of the entry point group `mimbench.parts` register their parts when they are imported, built-in ones too. A
dotted path in YAML (`type: my_pkg.masks.Mine`) needs no registration.
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

from mimbench.errors import UserError, check_known, nearest

ENTRY_POINTS = "mimbench.parts"

TOKENIZERS = Registry("tokenizer", scope="mimbench")
MASKERS = Registry("masker", scope="mimbench")
LOSSES = Registry("loss", scope="mimbench")
DECODERS = Registry("decoder", scope="mimbench")
REGISTRIES = {"tokenizer": TOKENIZERS, "masker": MASKERS, "loss": LOSSES, "decoder": DECODERS}


@functools.cache
def load_plugins() -> None:
    """Import every module of the entry point group, once. If one fails, stop: otherwise its rows would vanish."""
    for entry in importlib.metadata.entry_points(group=ENTRY_POINTS):
        try:
            entry.load()
        except Exception as error:
            owner = entry.dist.name if entry.dist else "an unknown distribution"
            raise UserError(
                f"the plug-in '{entry.name}' of {owner} ({entry.value}) failed to import: "
                f"{type(error).__name__}: {error}. Fix or uninstall {owner}."
            ) from error


def part_class(kind: str, name: str, place: str) -> Any:
    """The class registered as `name`, or at the dotted path `name`."""
    if "." in name:
        return _import_path(kind, name, place)
    load_plugins()
    modules = REGISTRIES[kind].module_dict
    check_known(f"{place}.type", kind, name, modules)
    return modules[name]


def _import_path(kind: str, path: str, place: str) -> Any:
    module_name, _, attribute = path.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise UserError(f"{place}.type: cannot import {kind} '{path}': {type(error).__name__}: {error}") from error
    found = getattr(module, attribute, None)
    if not isinstance(found, type):
        classes = [k for k, v in vars(module).items() if isinstance(v, type)]
        raise UserError(f"{place}.type: no class '{attribute}' in {module_name}.{nearest(attribute, classes)}")
    return found


@functools.cache
def parameters(cls: type) -> dict[str, inspect.Parameter]:
    """The arguments of a part's constructor: its configuration."""
    signature = inspect.signature(cls, eval_str=True)
    return {k: p for k, p in signature.parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}


@functools.cache
def origin(cls: type) -> str | None:
    """What identifies a third party's part: distribution and version, or the hash of its source. None: built in."""
    top = cls.__module__.split(".")[0]
    if top == "mimbench":
        return None
    owners = importlib.metadata.packages_distributions().get(top)
    if owners:
        return f"{owners[0]}=={importlib.metadata.version(owners[0])}"
    source = inspect.getsource(sys.modules[cls.__module__])
    return "source:" + hashlib.sha256(source.encode()).hexdigest()[:16]


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
        signature = ", ".join(str(p) for p in parameters(cls).values())
        rows.append((name, f"({signature})", origin(cls) or "mimbench", summary))
    return rows
