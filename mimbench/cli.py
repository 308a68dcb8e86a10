"""The command line: one short function a subcommand. Heavy imports stay inside, so that --help is quick."""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mimbench import __version__
from mimbench.errors import UserError, unknown
from mimbench.store import Store

if TYPE_CHECKING:
    from mimbench.launch import Outcome
    from mimbench.plan import Plan

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    options.given = given
    sys.path.append(os.getcwd())  # for parts named by a dotted path beside the config
    try:
        return options.function(options)
    except UserError as error:
        print(f"mimbench: {error}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        print("mimbench: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except OSError as error:
        print(f"mimbench: {error.filename or 'input or output'}: {error.strerror or error}", file=sys.stderr)
        return EXIT_FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mimbench", description="A bench for masked image modeling.")
    parser.add_argument("--version", action="version", version=f"mimbench {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="train, evaluate and tabulate a grid").add_subparsers(
        required=True, metavar="WHAT"
    )
    grid = run.add_parser("grid", help="all rows of a grid, with all its seeds")
    _grid_options(grid)
    grid.add_argument(
        "--on",
        default="local",
        metavar="local[:N]",
        help="N runs at a time on this machine (default: one a core or GPU)",
    )
    grid.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    grid.add_argument(
        "--loader-workers", type=int, default=0, metavar="N", help="processes that load images, for each run"
    )
    grid.add_argument("--micro-batch", type=int, metavar="N", help="images of one forward pass; gradients add up")
    grid.add_argument("--checkpoint-seconds", type=float, default=60, metavar="S", help="save this often (default: 60)")
    grid.add_argument(
        "--tensorboard", action="store_true", help="write TensorBoard curves too (pip install mimbench[tensorboard])"
    )
    grid.set_defaults(function=run_grid)

    plan = commands.add_parser("plan", help="what a grid needs: runs by kind, shared, done, time and disk")
    _grid_options(plan)
    plan.set_defaults(function=show_plan)

    report = commands.add_parser("report", help="write the report of a grid from its records")
    report.add_argument("grid", nargs="?", help="name of the grid (default: every grid in the results)")
    report.add_argument("--scale", help="default: every scale there is")
    _results_option(report)
    report.set_defaults(function=write_reports)

    status = commands.add_parser("status", help="how far the runs of the grids are")
    _results_option(status)
    status.set_defaults(function=show_status)

    parts = commands.add_parser("list", help="the parts that can be named in a config")
    parts.add_argument("kind", choices=["tokenizers", "maskers", "losses", "decoders", "protocols"])
    parts.set_defaults(function=list_parts)

    publish = commands.add_parser("publish", help="copy a grid's records and report, for committing")
    publish.add_argument("grid")
    publish.add_argument("--scale", default="tiny")
    publish.add_argument("--to", default="results/published", metavar="DIR")
    _results_option(publish)
    publish.set_defaults(function=publish_grid)
    return parser


def _results_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", default="results", metavar="DIR", help="default: ./results")


def _grid_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", help="a grid: a path, or the name of one that ships (ablations, methods, tokenizers)")
    parser.add_argument("--scale", help="smoke, tiny, or a file of your own (default: the grid's)")
    parser.add_argument("--seeds", type=int, metavar="N", help="seeds 0 to N-1 (default: the grid's)")
    parser.add_argument("--only", action="append", default=[], metavar="ROW", help="this row alone; may be repeated")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="sets",
        help="e.g. schedule.lr=1e-3, for every row",
    )
    _results_option(parser)


def _plan(options: argparse.Namespace) -> Plan:
    from mimbench.grid import load_grid
    from mimbench.plan import make_plan
    from mimbench.report.published import lookup

    grid = load_grid(
        options.file, scale=options.scale, seeds=options.seeds, only=tuple(options.only), sets=tuple(options.sets)
    )
    for row in grid.rows:
        if row.paper:
            lookup(row.paper, f"{grid.config}: row '{row.name}': paper")
    return make_plan(grid)


def run_grid(options: argparse.Namespace) -> int:
    processes = _processes(options.on)
    plan = _plan(options)
    store = Store(options.results)
    if options.dry_run:
        return _print_plan(plan, store)
    from mimbench import display, launch

    if options.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise UserError("--tensorboard: tensorboard is not installed; pip install 'mimbench[tensorboard]'.")
    launch.prepare(plan, store)
    left = launch.wanted(plan, store)
    if not left:
        print(f"All {len(plan.runs)} runs are done already; nothing to compute.", file=sys.stderr)
        return _finish(plan, store, launch.Outcome(), options)
    watcher = display.make(len(plan.runs), len(plan.runs) - len(left))
    place = {
        "workers": options.loader_workers, "micro_batch": options.micro_batch,
        "checkpoint_seconds": options.checkpoint_seconds, "tensorboard": options.tensorboard,
    }  # fmt: skip
    local = launch.Local(store, plan, launch.process_count(processes), watcher, options=place)
    try:
        outcome = local.run(on_progress=_Tables(plan, store))
    finally:
        watcher.close()
    launch.merge_record(plan, store)  # another call may have written its rows meanwhile
    return _finish(plan, store, outcome, options)


class _Tables:
    """Writes the report each time a seed is complete; the last one is `_finish`'s."""

    def __init__(self, plan: Plan, store: Store) -> None:
        self.plan, self.store = plan, store
        self.open = [s for s in plan.grid.seeds if not self._complete(s)]

    def _complete(self, seed: int) -> bool:
        return all(self.store.run(name).done() for name in self.plan.of_seed(seed))

    def __call__(self) -> None:
        ready = [s for s in self.open if self._complete(s)]
        self.open = [s for s in self.open if s not in ready]
        if ready and self.open:
            grid = self.plan.grid
            try:
                from mimbench.report.build import build_report

                folder = build_report(self.store, grid.name, grid.scale)
                print(f"seed {ready[0]} is complete: {folder / 'index.html'}", file=sys.stderr)
            except Exception as error:  # a report must never end the training of the other seeds
                print(f"seed {ready[0]} is complete; its report failed: {error}", file=sys.stderr)


def _finish(plan: Plan, store: Store, outcome: Outcome, options: argparse.Namespace) -> int:
    """What failed on stderr; the table on stdout, and as the last line how to go on."""
    from mimbench.report.build import build_report
    from mimbench.report.terminal import print_table

    for name in outcome.failed:
        failure = store.run(name).last_failure() or {}
        print(f"failed: {name}: {failure.get('type')}: {failure.get('message')}", file=sys.stderr)
    if outcome.blocked:
        print(f"not run, for a parent failed: {', '.join(outcome.blocked)}", file=sys.stderr)
    grid = plan.grid
    folder = build_report(store, grid.name, grid.scale)
    print_table(store, grid.name, grid.scale)
    print(f"Report: {folder / 'index.html'}", flush=True)
    if outcome.interrupted:
        print(f"Interrupted; nothing finished is lost. To go on: {_command(options.given)}", flush=True)
        return EXIT_INTERRUPTED
    if outcome.failed:
        print(f"{len(outcome.failed)} runs failed. To try them again: {_command(options.given)}", flush=True)
        return EXIT_FAILED
    if len(grid.seeds) == 1:
        words = [w for i, w in enumerate(options.given) if w != "--seeds" and options.given[i - 1] != "--seeds"]
        three = _command([*(w for w in words if not w.startswith("--seeds=")), "--seeds", "3"])
        print(f"One seed tells nothing about spread. For three: {three}", flush=True)
    return EXIT_OK


def _command(words: list[str]) -> str:
    """The command line as it can be typed again here."""
    program = Path(sys.argv[0])
    if shutil.which("mimbench") == str(program):
        name = ["mimbench"]
    elif program.name == "mimbench":
        name = [os.path.relpath(program)]
    else:
        name = [sys.executable, "-m", "mimbench"]
    return shlex.join([*name, *words])


def _processes(on: str) -> int | None:
    found = re.fullmatch(r"local(?::([1-9]\d*))?", on)
    if not found:
        raise UserError(f"--on {on}: must be local or local:N, with N the number of runs at a time.")
    return int(found[1]) if found[1] else None


def show_plan(options: argparse.Namespace) -> int:
    return _print_plan(_plan(options), Store(options.results))


def _print_plan(plan: Plan, store: Store) -> int:
    from mimbench.launch import process_count
    from mimbench.plan import disk_bytes, estimate

    rows = estimate(plan, store)
    grid = plan.grid
    print(f"{grid.name} at scale {grid.scale}: {len(grid.rows)} rows x {len(grid.seeds)} seeds")
    print(f"{'kind':14}{'runs':>6}{'shared':>8}{'done':>6}{'left, min of one process':>27}")
    for row in rows:
        basis = "measured" if row.measured else "estimated"
        left = f"{row.seconds / 60:.1f} ({basis})" if row.runs > row.done else "-"
        print(f"{row.kind:14}{row.runs:>6}{row.shared:>8}{row.done:>6}{left:>27}")
    count = process_count(None)
    total = sum(r.seconds for r in rows)
    print(
        f"{'all':14}{len(plan.runs):>6}{sum(r.shared for r in rows):>8}{sum(r.done for r in rows):>6}{total / 60:>16.1f}"
    )
    print(
        f"about {total / count / 60:.0f} min with {count} at a time; about {disk_bytes(plan) / 1e6:.0f} MB of weights"
    )
    return EXIT_OK


def write_reports(options: argparse.Namespace) -> int:
    from mimbench.report.build import build_report
    from mimbench.report.terminal import print_table

    store, code = Store(options.results), EXIT_OK
    for name, scale in _grids(store, options.grid, options.scale):
        try:
            folder = build_report(store, name, scale)
            print_table(store, name, scale)
            print(f"Report: {folder / 'index.html'}")
        except UserError as error:  # one grid that is refused hides no other
            print(f"mimbench: {error}", file=sys.stderr)
            code = EXIT_USAGE
    return code


def _grids(store: Store, name: str | None, scale: str | None) -> list[tuple[str, str]]:
    """(name, scale) of the records there are, as their files are named: <name>.<scale>.json."""
    everything: list[tuple[str, str]] = []
    for path, _ in store.grids():
        grid, _, grid_scale = path.stem.rpartition(".")
        everything.append((grid, grid_scale))
    if not everything:
        raise UserError(f"{store.root}: no grid was run there yet.")
    found = [(n, s) for n, s in everything if (not name or n == name) and (not scale or s == scale)]
    if not found:
        raise unknown(
            str(store.root), "grid", ".".join(w for w in (name, scale) if w), [f"{n}.{s}" for n, s in everything]
        )
    return found


def show_status(options: argparse.Namespace) -> int:
    """By kind of run: how many are done, running, failed, stopped or planned; then what failed and why."""
    from mimbench.status import status_lines

    for line in status_lines(Store(options.results)):
        print(line)
    return EXIT_OK


def list_parts(options: argparse.Namespace) -> int:
    if options.kind == "protocols":
        from mimbench import protocols

        for name in protocols.NAMES:
            raw = protocols.read(name)
            print(f"{name} version {raw['version']}: {raw['summary']} (scales: {', '.join(raw['scales'])})")
        return EXIT_OK
    from mimbench.registry import listing

    singular = {"tokenizers": "tokenizer", "maskers": "masker", "losses": "loss", "decoders": "decoder"}
    for name, signature, origin, summary in listing(singular[options.kind]):
        print(f"{name}{signature}  [{origin}]\n    {summary}")
    return EXIT_OK


def publish_grid(options: argparse.Namespace) -> int:
    from mimbench.report.archive import published_copy

    target = Path(options.to) / f"{options.grid}.{options.scale}"
    published_copy(Store(options.results), options.grid, options.scale, target)
    print(f"Copied to {target}")
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
