"""The command line: one short function a subcommand. Heavy imports stay inside, so that --help is quick."""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mimbench.cli.dispatch import Tables, check_place, finish, print_scripts, run_here, send, where
from mimbench.cli.parser import make_parser
from mimbench.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE, RunFailed, UserError, unknown
from mimbench.importing import importing
from mimbench.store.results import Store

if TYPE_CHECKING:
    from mimbench.plan.graph import Plan


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = make_parser().parse_args(given)
    options.given = given
    sys.path.append(os.getcwd())  # for parts named by a dotted path beside the config
    try:
        return COMMANDS[options.command](options)
    except UserError as error:
        print(f"mimbench: {error}", file=sys.stderr)
        return EXIT_USAGE
    except RunFailed as error:
        print(f"mimbench: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("mimbench: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except OSError as error:
        print(f"mimbench: {error.filename or 'input or output'}: {error.strerror or error}", file=sys.stderr)
        return EXIT_FAILED


def _plan(options: argparse.Namespace, *, on_gpus: bool = False) -> Plan:
    with importing():
        from mimbench.config.grid import load_grid
        from mimbench.plan.graph import make_plan
        from mimbench.report.published import lookup

    grid = load_grid(
        options.file, scale=options.scale, seeds=options.seeds, only=tuple(options.only), sets=tuple(options.sets)
    )
    for row in grid.rows:
        if row.paper:
            lookup(row.paper, f"{grid.config}: row '{row.name}': paper")
    return make_plan(grid, on_gpus=on_gpus)


def run_grid(options: argparse.Namespace) -> int:
    count, profile = where(options.on)
    plan = _plan(options, on_gpus=bool(profile and profile.of("pretrain").gpus))
    options.tensorboard |= plan.grid.tensorboard
    check_place(options)
    store = Store(options.results)
    grid = (plan.grid.name, plan.grid.scale)
    if options.dry_run:
        code = _print_plan(plan, store)
        return print_scripts(plan.runs, grid, store, profile, options) if profile else code
    from mimbench.launch import local as launch

    if profile:
        from mimbench.slurm.submit import check

        check(plan.runs, profile)  # before a folder is made
    launch.prepare(plan, store)
    if profile:
        return send(plan.runs, grid, store, profile, options)
    left = launch.wanted(plan.runs, store)
    if not left:
        print(f"All {len(plan.runs)} runs are done already; nothing to compute.", file=sys.stderr)
        return finish(grid, store, launch.Outcome(), options)
    outcome = run_here(plan.runs, store, count, options, on_progress=Tables(plan, store))
    launch.merge_record(plan, store)  # another call may have written its rows meanwhile
    return finish(grid, store, outcome, options)


def show_plan(options: argparse.Namespace) -> int:
    return _print_plan(_plan(options), Store(options.results))


def _print_plan(plan: Plan, store: Store) -> int:
    from mimbench.launch.local import process_count
    from mimbench.plan.graph import disk_bytes, estimate

    rows = estimate(plan, store)
    grid = plan.grid
    size = f"{len(grid.chosen)} rows x {len(grid.seeds)} seeds"
    print(f"{grid.name} at scale {grid.scale}: {size}; {plan.precision} where the precision is auto")
    if grid.left_out:
        print(f"left out at this scale unless --only names it: {', '.join(grid.left_out)}")
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
    """By row and kind: done, running, queued, failed, blocked; then where, and why."""
    from mimbench.cli import status

    store = Store(options.results)
    if options.watch:
        status.watch(lambda: status.status(store, options.grid))
    else:
        _print_all(status.status(store, options.grid).lines)
    return EXIT_OK


def _print_all(lines: Iterable[str]) -> None:
    for line in lines:
        print(line)


def show_why(options: argparse.Namespace) -> int:
    from mimbench.cli.status import why_lines
    from mimbench.launch.state import find_run

    store = Store(options.results)
    _print_all(why_lines(store, find_run(store, options.run)))
    return EXIT_OK


def show_logs(options: argparse.Namespace) -> int:
    from mimbench.cli.jobs import logs
    from mimbench.launch.state import find_run

    store = Store(options.results)
    for text in logs(store, find_run(store, options.run), options.follow):
        print(text, end="", flush=True)
    return EXIT_OK


def cancel_jobs(options: argparse.Namespace) -> int:
    from mimbench.cli.jobs import cancel

    _print_all(cancel(Store(options.results), options.grid))
    return EXIT_OK


def retry_runs(options: argparse.Namespace) -> int:
    """Needs no grid file: what the runs compute, and of whom they descend, stands in their folders."""
    from mimbench.cli.jobs import profile_of, records, to_retry
    from mimbench.launch.state import look

    count, profile = where(options.on or "local")
    check_place(options)
    store, worst = Store(options.results), EXIT_OK
    for name, scale, names in records(store, options.grid):
        seen, warning = look(store, names)
        if warning and profile:
            raise UserError(warning)
        chosen = to_retry(seen, options.failed)
        if options.on is None and (sent := profile_of(seen, chosen)):
            raise UserError(
                f"{name} was submitted: say --on slurm:{sent}, or --on local to carry it out on this machine."
            )
        print(f"{name} at scale {scale}: {len(chosen)} runs to try again", file=sys.stderr)
        if not chosen:
            continue
        from mimbench.launch import local as launch

        runs = launch.from_folders(chosen, store)
        if profile:
            worst = max(worst, send(runs, (name, scale), store, profile, options))
        else:
            outcome = run_here(runs, store, count, options, on_progress=lambda: None)
            worst = max(worst, finish((name, scale), store, outcome, options))
            if outcome.interrupted:
                return EXIT_INTERRUPTED
    return worst


def examine(options: argparse.Namespace) -> int:
    from mimbench.slurm import doctor

    _, profile = where(options.on)
    store = Store(options.results)
    lines = doctor.machine_lines(store)
    _print_all(doctor.verdict(itertools.chain(lines, doctor.cluster_lines(store, profile)) if profile else lines))
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


COMMANDS = {
    command.__name__: command
    for command in (run_grid, show_plan, write_reports, show_status, show_why, show_logs, cancel_jobs, retry_runs, examine,
                    list_parts, publish_grid)
}  # fmt: skip

if __name__ == "__main__":
    sys.exit(main())
