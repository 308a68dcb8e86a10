"""`mimbench report`: the reports of grids, and the leaderboard over all that is named."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mimbench.cli.dispatch import show_report
from mimbench.errors import EXIT_OK, EXIT_USAGE, UserError
from mimbench.inert import for_terminal
from mimbench.store.files import is_path
from mimbench.store.published import is_of_another_version, is_published, published_folders
from mimbench.store.results import Store

if TYPE_CHECKING:
    from mimbench.report.analysis import Analysis
    from mimbench.report.leaderboard import Origin

    Found = list[tuple[Analysis, Origin]]


def write_reports(options: argparse.Namespace) -> int:
    """A grid that is refused hides no other."""
    from mimbench.cli.jobs import grids

    stores, copies, wanted = _sources(options.sources, options.results)
    if options.json:
        print(_as_json(stores, copies, wanted, options.scale))
        return EXIT_OK
    out = (stores[0] if stores else Store(options.results)).root / "reports"
    refused: list[str] = []
    found: Found = []
    code = EXIT_OK
    for store in stores:
        shown = grids(store, wanted, options.scale)
        for name, scale in grids(store, None):
            try:
                found.append((_analysis(store, name, scale, (name, scale) in shown), _origin(store, name, scale, out)))
            except UserError as error:
                refused.append(str(error))
                code = EXIT_USAGE if (name, scale) in shown else code
    for copy in copies:
        try:
            found += _published(copy, out)
        except UserError as error:
            refused.append(str(error))
            code = EXIT_USAGE
    _write_leaderboard(found, out, refused)
    for text in refused:
        print(f"mimbench: {for_terminal(text)}", file=sys.stderr)
    return code


def _as_json(stores: list[Store], copies: list[Path], wanted: str | None, scale: str | None) -> str:
    """The tables that are asked for; the first that is refused raises."""
    from mimbench.cli.jobs import grids
    from mimbench.report.analysis import analysis_of, analyze
    from mimbench.report.collect import read_published_grid
    from mimbench.report.data import tables_as_json

    tables = [analyze(store, *grid) for store in stores for grid in grids(store, wanted, scale)]
    tables += [analysis_of(read_published_grid(copy)) for copy in copies if not is_of_another_version(copy)]
    return tables_as_json(tables)


def _sources(words: list[str], results: str) -> tuple[list[Store], list[Path], str | None]:
    """Results folders, published copies, and the grid that is asked for."""
    stores, copies, names = [], [], []
    for word in words:
        path = Path(word)
        found = [path] if is_published(path) else published_folders(path) if path.is_dir() else []
        if (path / "grids").is_dir() or (path / "runs").is_dir():
            stores.append(Store(path))
        elif found:
            copies += found
        elif is_path(word):
            raise UserError(f"{word}: no results there: neither a results folder nor a published copy.")
        else:
            names.append(word)
    if len(names) > 1:
        raise UserError(f"{', '.join(names)}: name one grid, or folders that exist.")
    if not stores and not copies:
        stores = [Store(results)]
    return stores, list({copy.resolve(): copy for copy in copies}.values()), names[0] if names else None


def _analysis(store: Store, name: str, scale: str, shown: bool) -> Analysis:
    """Of a grid, whose report is written first if it is asked for."""
    from mimbench.report.analysis import Analysis, analyze

    if not shown:
        return analyze(store, name, scale)
    table = show_report(store, name, scale)
    return Analysis(table.grid, table.cells)


def _origin(store: Store, name: str, scale: str, out: Path) -> Origin:
    from mimbench.report.leaderboard import Origin

    report = os.path.relpath(store.report_folder(name, scale) / "index.html", out)
    return Origin(_place(store.root), report, os.path.relpath(store.runs, out))


def _place(path: Path) -> str:
    """As the page says it, which is shared: not where on this machine."""
    return "/".join(path.absolute().parts[-2:])


def _published(copy: Path, out: Path) -> Found:
    """Nothing of a copy that another version wrote."""
    from mimbench.report.analysis import analysis_of
    from mimbench.report.collect import read_published_grid
    from mimbench.report.leaderboard import Origin

    if is_of_another_version(copy):
        return []
    origin = Origin(_place(copy), os.path.relpath(copy / "index.html", out), None)
    return [(analysis_of(read_published_grid(copy)), origin)]


def _write_leaderboard(found: Found, out: Path, refused: list[str]) -> None:
    from mimbench.report.leaderboard import leaderboard
    from mimbench.report.leaderboard_page import leaderboard_page
    from mimbench.store.files import write_atomically

    write_atomically(out / "index.html", leaderboard_page(leaderboard(found), refused))
    print(f"Leaderboard: {out / 'index.html'}", flush=True)
