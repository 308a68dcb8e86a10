"""`mimbench list KIND`: what a config or the command line can name, with a line on each."""

from __future__ import annotations

import itertools
import json
import os
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from mimbench.kinds import PROTOCOLS

PARTS = {"tokenizers": "tokenizer", "maskers": "masker", "losses": "loss", "decoders": "decoder"}


@dataclass(frozen=True)
class Named:
    name: str
    summary: str
    signature: str = ""  # of a part: its arguments
    origin: str = ""  # of a part: mimbench, or the package or file it is from

    def text(self, width: int | None) -> str:
        """In lines of at most so many characters, where that is given."""
        origin = f"  [{self.origin}]" if self.origin else ""
        head, summary = f"{self.name}{self.signature}{origin}", f"    {self.summary}" if self.summary else ""
        if width is not None:
            head = textwrap.fill(head, width, subsequent_indent="        ", break_on_hyphens=False)
            summary = textwrap.fill(summary, width, subsequent_indent="    ", break_on_hyphens=False)
        return head + (f"\n{summary}" if summary else "")


def listed(kind: str) -> list[Named]:
    return list(_parts(PARTS[kind]) if kind in PARTS else OTHERS[kind]())


def as_json(names: list[Named]) -> str:
    return json.dumps([{k: v for k, v in asdict(name).items() if v} for name in names], indent=2)


def _parts(kind: str) -> Iterator[Named]:
    from mimbench.registry import listing

    for name, signature, origin, summary in listing(kind):
        yield Named(name, summary, signature, origin)


def _protocols() -> Iterator[Named]:
    from mimbench import protocols

    for name in PROTOCOLS:
        raw = protocols.read(name)
        yield Named(name, f"version {raw['version']}: {raw['summary']}")


def _grids() -> Iterator[Named]:
    from mimbench.config.merge import packaged, read_yaml

    for path in sorted(packaged().glob("*.yaml")):
        yield Named(path.stem, str(read_yaml(path).get("title", "")))


def _configs(folder: str) -> Callable[[], Iterator[Named]]:
    def named() -> Iterator[Named]:
        from mimbench.config.merge import packaged

        root = packaged(folder)
        for path in sorted(root.rglob("*.yaml")):
            yield Named(path.relative_to(root).with_suffix("").as_posix(), _first_sentence(path))

    return named


def _first_sentence(path: Path) -> str:
    """Of the comment that a config begins with: it says what the config is."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines())
    text, end, _ = " ".join(line.removeprefix("#").strip() for line in lines).partition(". ")
    return f"{text}." if end else text


def _data() -> Iterator[Named]:
    from mimbench.data.sources.places import BUILT_IN, DATA_ROOT, WHERE

    for name in BUILT_IN:
        yield Named(name, "built in: rendered in seconds, nothing to download")
    root = os.environ.get(DATA_ROOT)
    there = {path.name for path in Path(root).iterdir() if path.is_dir()} if root and Path(root).is_dir() else set()
    for name in sorted({*WHERE, *there}):
        missing = f"not there: `mimbench data get {name}`" if root else f"set {DATA_ROOT} to the dataset root"
        yield Named(name, f"in {root}" if name in there else missing)


OTHERS: dict[str, Callable[[], Iterator[Named]]] = {
    "protocols": _protocols,
    "recipes": _configs("recipes"),
    "grids": _grids,
    "scales": _configs("scales"),
    "data": _data,
}
LISTS = (*OTHERS, *PARTS)
