"""`mimbench data get | check | pack`: what lies behind a data set's name."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mimbench.errors import EXIT_FAILED, EXIT_OK, UserError
from mimbench.inert import for_terminal
from mimbench.store.files import file_name, is_path
from mimbench.store.results import Store

if TYPE_CHECKING:
    from mimbench.data.sources.base import Source


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    data = commands.add_parser("data", help="fetch, check or pack a data set").add_subparsers(
        required=True, metavar="WHAT"
    )

    def command(name: str, function: str, text: str) -> argparse.ArgumentParser:
        added = data.add_parser(name, help=text, description=text)
        added.set_defaults(command=function)
        return added

    named = "a name (below MIMBENCH_DATA) or a path (with a '/', or beginning with '.' or '~')"
    get = command("get", "get_data", "fetch a data set, or say what to put where")
    get.add_argument("name", help="cifar10, cifar100, tiny_imagenet, ade20k or imagenet")
    check = command("check", "check_data", "counts, classes, unreadable files, fingerprint and a contact sheet")
    check.add_argument("name", help=named)
    check.add_argument("--results", default="results", metavar="DIR", help="results folder (default: ./results)")
    pack = command("pack", "pack_data", "write a resized copy that needs no decoding")
    pack.add_argument("name", help=named)
    pack.add_argument(
        "--size", type=int, required=True, metavar="S", help="shorter side in pixels; smaller images stay"
    )
    pack.add_argument("--to", required=True, metavar="DIR", help="the new folder: the data set's path from then on")


def get_data(options: argparse.Namespace) -> int:
    from mimbench.data.download import get

    print(
        f"{get(options.name)}: use it as data.name: {options.name}; `mimbench data check {options.name}` reads it all"
    )
    return EXIT_OK


def check_data(options: argparse.Namespace) -> int:
    """Decodes everything, whatever was known of it; runs in the same results folder need not do it again."""
    from mimbench.data.sources import source

    found, store = source(options.name), Store(options.results)
    code = EXIT_OK
    offered = False
    for check in (_check_images, _check_masks):
        for line, fine in check(found, store):
            offered = True
            print(for_terminal(line))
            code = code if fine else EXIT_FAILED
    if not offered:
        raise UserError(f"{options.name}: is built in; nothing to check.")
    return code


def _check_images(found: Source, store: Store) -> Iterator[tuple[str, bool]]:
    from mimbench.config.schema import DataConfig
    from mimbench.data.contact_sheet import sheet_of
    from mimbench.data.sources.pack import Pack
    from mimbench.data.sources.splits import Listed

    if not isinstance(found, Listed) or not found.has_images():
        return
    content, counts = found.content, found.counts()
    yield f"{found.name}: {', '.join(f'{split} {count}' for split, count in counts.items())}", True
    yield f"classes: {_names(content.classes)}" if content.classes else "no labels: for pre-training only", True
    yield f"fingerprint: {content.manifest}", True
    yield from ((f"warning: {sentence}", True) for sentence in found.warnings())
    if isinstance(found, Pack):
        damaged = found.damaged(store.cache, again=True)
        yield from ((f"damaged: {name}", False) for name in damaged)
        if damaged:
            return
    lost = found.unreadable(store.cache, again=True)
    yield f"unreadable: {len(lost) or 'none'}", not lost
    yield from ((f"  {name}: {why}", False) for name, why in sorted(lost.items()))
    path = store.root / "data" / f"{file_name(found.name)}.png"
    sheet_of(found.load(DataConfig(name=found.name, size=64), "train", store.cache), path)
    yield f"contact sheet: {path}", True


def _check_masks(found: Source, store: Store) -> Iterator[tuple[str, bool]]:
    from mimbench.data.mask_statistics import mask_statistics
    from mimbench.data.sources.ade20k import ADE20K

    if not isinstance(found, ADE20K) or not found.has_masks():
        return
    counts = found.segmentation_counts()
    yield f"{found.name}, with masks: {', '.join(f'{split} {count}' for split, count in counts.items())}", True
    yield f"fingerprint: {found.segmentation_facts()['segmentation_manifest']}", True
    found.rescan_masks(store.cache)
    flags = found.segmentation_flags(store.cache)
    yield from ((flag, False) for flag in flags)
    yield from ((f"{name}: {why}", False) for name, why in sorted(found.size_faults(store.cache).items()))
    yield from mask_statistics(found.readable_masks(store.cache), found.class_count())


def _names(classes: tuple[str, ...]) -> str:
    shown = ", ".join(classes[:10])
    return f"{len(classes)}: {shown}{', ...' if len(classes) > 10 else ''}"


def pack_data(options: argparse.Namespace) -> int:
    from mimbench.data.packing import pack
    from mimbench.data.sources import source
    from mimbench.data.sources.splits import Listed

    if options.size < 1:
        raise UserError(f"--size: must be at least 1 pixel, not {options.size}.")
    found = source(options.name)
    if not isinstance(found, Listed):
        raise UserError(f"{options.name}: is built in; only folders of images can be packed.")
    target = pack(found, options.size, Path(options.to))
    written = sum(path.stat().st_size for path in target.iterdir())
    print(
        f"{target}: {written / 1e6:.0f} MB; use it as data.name: {options.to if is_path(options.to) else f'./{options.to}'}"
    )
    for name, why in _packed(target).items():
        print(for_terminal(f"left out: {name}: {why}"), file=sys.stderr)
    return EXIT_OK


def _packed(target: Path) -> dict[str, str]:
    import json

    from mimbench.data.sources.pack import DESCRIPTION

    return dict(json.loads((target / DESCRIPTION).read_text(encoding="utf-8"))["unreadable"])
