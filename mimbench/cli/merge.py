"""`mimbench merge A B --into C`: the results of several places in one folder."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mimbench.errors import EXIT_OK
from mimbench.inert import for_terminal
from mimbench.report.format import count
from mimbench.store.merge import merge
from mimbench.store.results import Store


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "bring results folders and published copies into one folder, where their finished runs count as done"
    command = commands.add_parser("merge", help=text, description=text)
    command.add_argument("sources", nargs="+", metavar="SOURCE", help="a results folder, or results/published/NAME")
    command.add_argument("--into", required=True, metavar="DIR", help="the results folder that they are merged into")
    command.set_defaults(command="merge_results")


def merge_results(options: argparse.Namespace) -> int:
    target = Store(options.into)
    merged = merge([Path(source) for source in options.sources], target)
    for source, runs in merged.imported.items():
        print(for_terminal(f"{source}: {count(runs, 'run')} imported"))
    if merged.grids:
        print(for_terminal(f"{target.root}: {count(len(merged.grids), 'grid')}: {', '.join(merged.grids)}"))
    if merged.without_weights:
        print(f"mimbench: {count(merged.without_weights, 'finished run')} without weights: a new run that needs them trains them "
              "again, and must arrive at the recorded sha256", file=sys.stderr)  # fmt: skip
    return EXIT_OK
