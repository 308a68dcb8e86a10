"""`mimbench verify RESULTS`: are these records what they claim to be?"""

from __future__ import annotations

import argparse
from pathlib import Path

from mimbench.errors import EXIT_FAILED, EXIT_OK
from mimbench.inert import for_terminal


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "derive names, digests, fingerprints, weights' sha256 and tables again, and list what does not agree"
    command = commands.add_parser("verify", help=text, description=text)
    command.add_argument("results", nargs="?", default="results", metavar="RESULTS",
                         help="a results folder, a published copy or a folder of them (default: ./results)")  # fmt: skip
    command.set_defaults(command="verify_results")


def verify_results(options: argparse.Namespace) -> int:
    from mimbench.report.format import count
    from mimbench.report.verify import verify

    found = verify(Path(options.results))
    for line in [*found.notes, *found.problems]:
        print(for_terminal(line))
    checked = f"{count(found.runs, 'run')}, {found.weights} with weights, and {count(found.tables, 'table')} checked"
    print(
        for_terminal(
            f"{options.results}: {checked}: {count(len(found.problems), 'problem') if found.problems else 'all agree'}"
        )
    )
    return EXIT_FAILED if found.problems else EXIT_OK
