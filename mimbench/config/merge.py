"""YAML files, and mappings merged in order, with the source of each value."""

from __future__ import annotations

import copy
import importlib.resources
import itertools
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from mimbench.config.schema import PART_KINDS
from mimbench.errors import UserError, unknown
from mimbench.inert import unprintable
from mimbench.store.files import is_path

MAX_BYTES = 200_000  # of a file
MAX_VALUES = 100_000  # of a text, every use of an anchor counted
# Each a row or a checkpoint: naming one takes the other's place
ENCODERS = ("teacher", "start", "tokenizer_training.teacher")


class _Loader(yaml.SafeLoader):
    """YAML that refuses a key written twice, and reads 1e-3 as the number that YAML 1.2 says it is."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node) if isinstance(key_node, yaml.ScalarNode) else key_node
        if key in seen:
            raise yaml.constructor.ConstructorError(
                problem=f"the key '{key}' is written twice", problem_mark=key_node.start_mark
            )
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def parse(text: str) -> Any:
    """The value of a YAML text, or a YAMLError."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if (size := _expanded(node, {})) > MAX_VALUES:
            held = f"about {size:.0e}" if math.isfinite(size) else "endlessly many"
            raise yaml.YAMLError(f"its anchors expand to {held} values; allowed: {MAX_VALUES:,}")
        return loader.construct_document(node)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        # what PyYAML raises for 2020-13-45, `!!bool perhaps`, `!!int ""` and a thousand brackets
        raise yaml.YAMLError(str(error)) from error
    finally:
        loader.dispose()


def _expanded(node: yaml.Node, known: dict[int, float]) -> float:
    """How many values a node stands for; one that contains itself, infinitely many."""
    if isinstance(node, yaml.ScalarNode):
        _check_text(node.value)
        return 1
    if id(node) not in known:
        known[id(node)] = math.inf
        inner = itertools.chain(*node.value) if isinstance(node, yaml.MappingNode) else node.value
        known[id(node)] = 1 + sum(_expanded(child, known) for child in inner)
    return known[id(node)]


def _check_text(text: str) -> None:
    """A terminal obeys control characters, and half of a pair of surrogates can be written to no file."""
    if wrong := unprintable(text):
        raise yaml.YAMLError(f"the character U+{ord(wrong):04X} is allowed nowhere")


def read_yaml(path: Path) -> dict[str, Any]:
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise UserError(f"{path}: has {size:,} bytes; a config has at most {MAX_BYTES:,}. Write several grids.")
        value = parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}).") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(value, dict) or not all(isinstance(k, str) for k in value):
        raise UserError(f"{path}: must hold a mapping of names to values.")
    return value


def packaged(folder: str = "") -> Path:
    """The configs of the installed package; of the checkout where it is installed editable."""
    installed = Path(str(importlib.resources.files("mimbench"))) / "configs"
    root = installed if installed.is_dir() else Path(__file__).parents[2] / "configs"
    return root / folder


def find(name: str, folder: str = "", beside: Path | None = None, *, from_shell: bool = False) -> Path:
    """A config by path, or by name: beside the file that names it, or among those that ship.

    What stands on the command line is first looked up from the working directory.
    """
    candidates = [] if beside is None else [beside.parent / name, beside.parent / folder / name]
    if from_shell or beside is None:
        candidates.insert(0, Path(name))
    elif name.endswith(".yaml"):
        candidates.append(Path(name))
    for root in (*candidates, packaged(folder) / name, packaged() / name):
        for path in (root, root.parent / f"{root.name}.yaml"):
            try:
                if path.is_file():
                    return path
            except (OSError, ValueError):  # not a file name
                continue
    if (from_shell or beside is None) and is_path(name):
        raise UserError(f"{name}: no such file.")
    shipped = [p.stem for p in packaged(folder).glob("*.yaml")]
    raise unknown(str(beside or "configs"), f"config in configs/{folder}" if folder else "config", name, shipped)


def for_other_masks(
    protocols: dict[str, dict[str, Any]], stated: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """A scale's settings without the weight of the first class, the ground of its own images, unless `stated` for these."""
    kept = lambda name, key: key != "first_class_weight" or key in stated.get(name, {})
    return {name: {k: v for k, v in of_one.items() if kept(name, k)} for name, of_one in protocols.items()}


def put(target: dict[str, Any], dotted: str, value: Any, place: str, allowed: Iterable[str]) -> None:
    """Set `a.b.c` in nested mappings; `a` is one of the allowed keys."""
    *parents, last = dotted.split(".")
    if dotted.partition(".")[0] not in allowed:
        raise unknown(place, "key", dotted, allowed)
    for key in parents:
        inner = target.setdefault(key, {})
        if isinstance(inner, str):  # `tokenizer: dvae`, written short
            inner = target[key] = {"type": inner}
        if not isinstance(inner, dict):
            raise UserError(f"{place}: '{dotted}': '{key}' is not a mapping.")
        target = inner
    target[last] = value


def holders(layer: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """The mappings that hold parts, by their path: the recipe itself and each of its terms."""
    yield (), layer
    terms = layer.get("terms")
    for name, term in terms.items() if isinstance(terms, dict) else ():
        if isinstance(term, dict):
            yield ("terms", name), term


def _nested(prefix: tuple[str, ...], kind: str, part: dict[str, Any]) -> dict[str, Any]:
    layer: dict[str, Any] = {kind: part}
    for key in reversed(prefix):
        layer = {key: layer}
    return layer


class Layers:
    """Mappings merged in order; `sources` holds for each dotted path which file set it last."""

    def __init__(self) -> None:
        self.value: dict[str, Any] = {}
        self.sources: dict[str, str] = {}
        self._order: dict[str, int] = {}  # of the sources, the latest last
        self._sizes: dict[str, dict[str, dict[str, Any]]] = {}
        self._sizes_source = ""

    def add(self, layer: dict[str, Any], source: str) -> None:
        layer = copy.deepcopy(layer)
        self._order.setdefault(source, len(self._order))
        for prefix, holder in holders(layer):
            for kind in PART_KINDS:
                part = holder.get(kind)
                if isinstance(part, str):
                    part = holder[kind] = {"type": part}
                former = self._part(prefix, kind)
                if isinstance(part, dict) and "type" in part and part["type"] != former.get("type"):
                    former.clear()  # another type takes none of the former type's arguments
                    self._forget(".".join((*prefix, kind)))
                    self._merge(self.value, _nested(prefix, kind, {"type": part["type"]}), "", source)
                    self._size(prefix, kind)
        self._merge(self.value, layer, "", source)

    def size_parts(self, sizes: dict[str, dict[str, dict[str, Any]]], source: str) -> None:
        """Give every part the sizes of its type: those there are, and those of types that later layers choose."""
        self._sizes, self._sizes_source = sizes, source
        self._order.setdefault(source, len(self._order))
        for prefix, _ in holders(self.value):
            for kind in PART_KINDS:
                self._size(prefix, kind)

    def _size(self, prefix: tuple[str, ...], kind: str) -> None:
        name = self._part(prefix, kind).get("type")
        if isinstance(name, str) and name in self._sizes.get(kind, {}):
            self._merge(self.value, _nested(prefix, kind, self._sizes[kind][name]), "", self._sizes_source)

    def _part(self, prefix: tuple[str, ...], kind: str) -> dict[str, Any]:
        found: Any = self.value
        for key in (*prefix, kind):
            found = found.get(key) if isinstance(found, dict) else None
        return found if isinstance(found, dict) else {}

    def _merge(self, target: dict[str, Any], layer: dict[str, Any], prefix: str, source: str) -> None:
        for key, value in layer.items():
            path, old = f"{prefix}{key}", target.get(key)
            self.sources[path] = source
            if isinstance(value, dict):
                inner = target[key] = old if isinstance(old, dict) else {}
                if path in ENCODERS and len(named := value.keys() & {"row", "weights"}) == 1:
                    for other in {"row", "weights"} - named:
                        inner.pop(other, None)
                        self.sources.pop(f"{path}.{other}", None)
                self._merge(inner, value, f"{path}.", source)
            else:
                target[key] = copy.deepcopy(value)

    def _forget(self, path: str) -> None:
        """Where values came from that are no more."""
        self.sources = {key: source for key, source in self.sources.items() if not key.startswith(f"{path}.")}

    def _latest(self, path: str, rest: str) -> tuple[str, str]:
        """Of a key and those beside it that the message names, the one that was set last: `dim` that `heads` does not divide."""
        parent, dot, _ = path.rpartition(".")
        what_is_wrong = re.split(r"Did you mean|Allowed:", rest)[0]
        named = [f"{parent}{dot}{word}" for word in re.findall(r"\w+", what_is_wrong)]
        ages = {other: self._order[self.sources[other]] for other in (path, *named) if other in self.sources}
        latest = max(ages, key=ages.__getitem__, default=path)
        return (path, rest) if path not in ages or ages[latest] == ages[path] else (latest, f" {path}:{rest}")

    def located(self, error: UserError) -> UserError:
        """Name the file in an error that only knows the path, written `@path: what is wrong`."""
        text = str(error)
        if not text.startswith("@"):
            return error
        path, _, rest = text[1:].partition(":")
        path, rest = self._latest(path, rest)
        parts = path.split(".")
        prefixes = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
        source = next((self.sources[prefix] for prefix in prefixes if prefix in self.sources), "")
        return UserError(f"{source}{path}:{rest}")
