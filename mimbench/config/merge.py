"""YAML files, and mappings merged in order that remember which file said what."""

from __future__ import annotations

import copy
import importlib.resources
import re
from pathlib import Path
from typing import Any

import yaml

from mimbench.config.schema import PART_KINDS
from mimbench.errors import UserError, unknown


class _Loader(yaml.SafeLoader):
    """YAML that refuses a key written twice, and reads 1e-3 as the number that YAML 1.2 says it is."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node)
        if isinstance(key, str | int | float | bool) and key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key '{key}' is written twice", key_node.start_mark
            )
        seen.add(str(key) if not isinstance(key, str | int | float | bool) else key)
    return dict(loader.construct_mapping(node, deep=True))


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def _integer(loader: _Loader, node: yaml.ScalarNode) -> int:
    number = loader.construct_yaml_int(node)
    str(number)  # Python refuses to read and to print more than 4300 digits, but reads any number of hexadecimal ones
    return number


_Loader.add_constructor("tag:yaml.org,2002:int", _integer)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def parse(text: str) -> Any:
    """The value of a YAML text, or a YAMLError."""
    try:
        return yaml.load(text, Loader=_Loader)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        # PyYAML's own for 2020-13-45, `!!bool perhaps`, `!!int ""`, `!!timestamp x` and a thousand brackets
        raise yaml.YAMLError(str(error)) from error


def read_yaml(path: Path) -> dict[str, Any]:
    try:
        value = parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(value, dict) or not all(isinstance(k, str) for k in value):
        raise UserError(f"{path}: must hold a mapping of names to values.")
    return value


def packaged(folder: str = "") -> Path:
    """The configs that travel with the package (and are the checkout's own where it is installed editable)."""
    installed = Path(str(importlib.resources.files("mimbench"))) / "configs"
    root = installed if installed.is_dir() else Path(__file__).parents[2] / "configs"
    return root / folder


def find(name: str, folder: str = "", beside: Path | None = None, place: str | None = None) -> Path:
    """A config by path, or by name: beside the file that names it, or among those that ship. An error is one at `place`."""
    candidates = [Path(name)] if beside is None else [beside.parent / name, beside.parent / folder / name]
    for root in (*candidates, packaged(folder) / name, packaged() / name):
        for path in (root, root.parent / f"{root.name}.yaml"):
            try:
                if path.is_file():
                    return path
            except (OSError, ValueError):  # too long for a file name, or no name at all
                continue
    shipped = [p.stem for p in packaged(folder).glob("*.yaml")]
    raise unknown(
        place or f"{beside or 'mimbench'}", f"config in configs/{folder}" if folder else "config", name, shipped
    )


class Layers:
    """Mappings merged in order; `sources` tells for each dotted path which file set it last."""

    def __init__(self) -> None:
        self.value: dict[str, Any] = {}
        self.sources: dict[str, str] = {}

    def add(self, layer: dict[str, Any], source: str) -> None:
        self._merge(self.value, layer, "", source)

    def _merge(self, target: dict[str, Any], layer: dict[str, Any], prefix: str, source: str) -> None:
        for key, value in layer.items():
            path = f"{prefix}{key}"
            old = target.get(key)
            if isinstance(value, str) and prefix == "" and key in PART_KINDS:
                value = {"type": value}
            # another type takes none of the former type's arguments
            retyped = (
                isinstance(value, dict)
                and isinstance(old, dict)
                and value.get("type", old.get("type")) != old.get("type")
            )
            if isinstance(value, dict) and isinstance(old, dict) and not (retyped and key in PART_KINDS):
                self._merge(old, value, f"{path}.", source)
            else:
                target[key] = copy.deepcopy(value)
                self._note(path, value, source)

    def _note(self, path: str, value: Any, source: str) -> None:
        self.sources[path] = source
        if isinstance(value, dict):
            for key, inner in value.items():
                self._note(f"{path}.{key}", inner, source)

    def located(self, error: UserError) -> UserError:
        """Put the file before an error that only knows its path, written `@path: what is wrong`."""
        text = str(error)
        if not text.startswith("@"):
            return error
        path, _, rest = text[1:].partition(":")
        parts = path.split(".")
        for length in range(len(parts), 0, -1):
            source = self.sources.get(".".join(parts[:length]))
            if source:
                return UserError(f"{source}{path}:{rest}")
        return UserError(f"{path}:{rest}")
