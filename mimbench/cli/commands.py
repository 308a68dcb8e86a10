"""The command line: one short function per subcommand. Heavy imports stay inside, so that --help is quick."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimbench import __version__
from mimbench.cli.data import check_data, get_data, pack_data
from mimbench.cli.dispatch import Dispatch, parse_target, seed_reports
from mimbench.cli.merge import merge_results
from mimbench.cli.parser import make_parser
from mimbench.cli.protocols import protocol_names
from mimbench.cli.report import write_reports
from mimbench.cli.show import show
from mimbench.cli.usage import OVERVIEW
from mimbench.cli.verify import verify_results
from mimbench.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE, RunFailed, UserError
from mimbench.inert import for_terminal
from mimbench.runtime import quick_imports
from mimbench.store.results import Store

if TYPE_CHECKING:
    from mimbench.plan.graph import Plan


BOARDS = ("tensorboard", "wandb")  # that show curves beside ours, each an extra


def show_overview(options: argparse.Namespace) -> int:
    print(OVERVIEW.format(version=__version__))
    return EXIT_OK


def main(arguments: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if arguments is None else arguments)
    options = make_parser().parse_args(argv)
    options.argv = argv
    sys.path.append(os.getcwd())  # for parts named by a dotted path beside the config
    try:
        return COMMANDS[options.command](options)
    except (UserError, RunFailed) as error:
        print(f"mimbench: {for_terminal(str(error))}", file=sys.stderr)
        return EXIT_USAGE if isinstance(error, UserError) else EXIT_FAILED
    except KeyboardInterrupt:
        print("mimbench: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output is gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except OSError as error:
        where = for_terminal(str(error.filename or "input or output"))
        print(f"mimbench: {where}: {error.strerror or error}", file=sys.stderr)
        return EXIT_FAILED


def _plan(options: argparse.Namespace, *, on_gpus: bool = False) -> Plan:
    with quick_imports():
        from mimbench.config.grid import load_grid
        from mimbench.plan.graph import make_plan
        from mimbench.report.published import lookup

    grid = load_grid(
        options.file,
        scale=options.scale,
        data=options.data,
        seeds=options.seeds,
        only=tuple(options.only),
        sets=tuple(options.sets),
    )
    if options.command != "evaluate_checkpoint":  # which writes them into its grid
        grid = dataclasses.replace(grid, only_protocols=protocol_names(options.protocols))
    for row in grid.rows:
        if row.paper:
            lookup(row.paper, f"{grid.config}: row '{row.name}': paper")
    plan = make_plan(grid, on_gpus=on_gpus)
    for note in plan.notes:
        print(f"mimbench: {for_terminal(note)}", file=sys.stderr)
    return plan


def _runtime_settings(options: argparse.Namespace, *, tensorboard: bool = False) -> dict[str, Any]:
    """Those given on the command line; the rest is the profile's or the machine's default."""
    keys = ("workers", "micro_batch", "checkpoint_seconds", "activation_checkpointing", *BOARDS)
    given = {key: value for key in keys if (value := getattr(options, key)) is not None}
    if tensorboard:
        given["tensorboard"] = True
    for board in BOARDS:
        if board in given and importlib.util.find_spec(board) is None:
            raise UserError(f"{board}: requested but not installed; pip install 'mimbench[{board}]'.")
    return given


def run_grid(options: argparse.Namespace) -> int:
    return _carry_out(_plan_for_target(options), options)


def evaluate_checkpoint(options: argparse.Namespace) -> int:
    with quick_imports():
        from mimbench.cli.evaluate import grid_file

    with grid_file(options):
        plan = _plan_for_target(options)
    return _carry_out(plan, options)


def _plan_for_target(options: argparse.Namespace) -> Plan:
    _, profile = parse_target(options.on)
    return _plan(options, on_gpus=bool(profile and profile.of("pretrain").gpus))


def _carry_out(plan: Plan, options: argparse.Namespace, *, suggest_seeds: bool = True) -> int:
    processes, profile = parse_target(options.on)
    store, grid = Store(options.results), (plan.grid.name, plan.grid.scale)
    dispatch = Dispatch(store, grid, _runtime_settings(options, tensorboard=plan.grid.tensorboard), options.argv)
    if profile:
        from mimbench.slurm.submit import check

        check(plan.runs, profile)  # before any folder is made
    from mimbench.plan.terms import check_micro_batches
    from mimbench.run.flops import add_flops

    recipes = {f"row '{row}'": plan.runs[runs["pretrain"]].spec["recipe"] for row, seeds in plan.rows.items() for runs in seeds.values()
               if "pretrain" in runs}  # fmt: skip
    check_micro_batches(recipes, options.micro_batch or (profile.of("pretrain").micro_batch if profile else None))
    if not options.dry_run:
        store.check_writable()  # and make the folder: counts of FLOPs are kept in it
    add_flops(plan, store)
    if options.dry_run:
        code = _print_plan(plan, store)
        return dispatch.print_scripts(plan.runs, profile) if profile else code
    from mimbench.launch.local import Outcome
    from mimbench.plan.estimate import seconds_by_run
    from mimbench.plan.graph import wanted
    from mimbench.plan.record import prepare, write_grid_record

    prepare(plan, store)
    if profile:
        return dispatch.submit(plan.runs, profile)
    outcome = Outcome()
    if wanted(plan.runs, store):
        outcome = dispatch.here(plan.runs, processes, seed_reports(plan, store), seconds_by_run(plan, store))
        write_grid_record(plan, store)  # another call may have written its rows meanwhile
    else:
        print(f"All {len(plan.runs)} runs are done; nothing to compute.", file=sys.stderr)
    return dispatch.finish(outcome, suggest_seeds=suggest_seeds and not plan.grid.only_these_seeds)


def show_plan(options: argparse.Namespace) -> int:
    from mimbench.run.flops import add_flops

    throughput = options.throughput and options.throughput * 1e12
    plan, store = _plan(options, on_gpus=throughput is not None), Store(options.results)
    add_flops(plan, store)
    return _print_plan(plan, store, throughput, in_json=options.json)


def _print_plan(plan: Plan, store: Store, throughput: float | None = None, *, in_json: bool = False) -> int:
    from mimbench.cli import plan as form

    if in_json:
        print(form.as_json(plan, store, throughput))
    else:
        _print_all(form.as_text(plan, store, throughput))
    return EXIT_OK


def write_steps(options: argparse.Namespace) -> int:
    with quick_imports():
        from mimbench.cli.budget import write_budget

    _print_all(write_budget(options))
    return EXIT_OK


def search_rates(options: argparse.Namespace) -> int:
    with quick_imports():
        from mimbench.cli.search import search_grid

    return search_grid(options, functools.partial(_carry_out, options=options, suggest_seeds=False))


def show_status(options: argparse.Namespace) -> int:
    """By row and kind: done, running, queued, failed, blocked; then where, and why."""
    from mimbench.cli import status

    store = Store(options.results)
    if options.json:
        print(status.as_json(store, options.grid))
    elif options.watch:
        status.watch(store, options.grid)
    else:
        _print_all(status.status(store, options.grid)[0])
    return EXIT_OK


def _print_all(lines: Iterable[str]) -> None:
    for line in lines:
        print(for_terminal(line))


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
        print(for_terminal(text), end="", flush=True)
    return EXIT_OK


def cancel_jobs(options: argparse.Namespace) -> int:
    from mimbench.cli.jobs import cancel

    _print_all(cancel(Store(options.results), options.grid))
    return EXIT_OK


def retry_runs(options: argparse.Namespace) -> int:
    """Needs no grid file: what the runs compute, and their parents, stand in their folders."""
    from mimbench.cli.jobs import grids, profile_of, states_of, to_retry
    from mimbench.launch.state import runs_of
    from mimbench.plan.graph import from_folders
    from mimbench.store.records import read_grid

    processes, profile = parse_target(options.on or "local")
    settings, store, worst = _runtime_settings(options), Store(options.results), EXIT_OK
    for name, scale in grids(store, options.grid):
        states, warning = states_of(store, runs_of(read_grid(store.grid_path(name, scale))))
        if warning and profile:
            raise UserError(warning)
        chosen = to_retry(states, failed_only=options.failed)
        if options.on is None and (sent := profile_of(chosen)):
            raise UserError(f"{name} was submitted: give --on slurm:{sent}, or --on local to run it on this machine.")
        print(for_terminal(f"{name} at scale {scale}: {len(chosen)} runs to retry"), file=sys.stderr)
        if not chosen:
            continue
        runs = from_folders((run.name for run in chosen), store)
        dispatch = Dispatch(store, (name, scale), settings, options.argv)
        if profile:
            worst = max(worst, dispatch.submit(runs, profile))
            continue
        outcome = dispatch.here(runs, processes)
        worst = max(worst, dispatch.finish(outcome))
        if outcome.interrupted:
            return EXIT_INTERRUPTED
    return worst


def examine(options: argparse.Namespace) -> int:
    from mimbench.cli.doctor import report

    _, profile = parse_target(options.on)
    _print_all(report(Store(options.results), profile))
    return EXIT_OK


def list_names(options: argparse.Namespace) -> int:
    with quick_imports():
        from mimbench.cli.listing import as_json, listed

        names = listed(options.kind)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    print(as_json(names) if options.json else "\n".join(for_terminal(name.text(width)) for name in names))
    return EXIT_OK


def publish_grid(options: argparse.Namespace) -> int:
    from mimbench.report.archive import published_copy

    target = Path(options.to) / f"{options.grid}.{options.scale}"
    published_copy(Store(options.results), options.grid, options.scale, target)
    print(f"Copied to {target}")
    return EXIT_OK


def export_run(options: argparse.Namespace) -> int:
    with quick_imports():
        from mimbench.cli.export import export

    print(f"Exported to {export(Store(options.results), options.run, options.to, options.out)}")
    return EXIT_OK


COMMANDS = {
    command.__name__: command
    for command in (run_grid, evaluate_checkpoint, show_plan, write_steps, search_rates, write_reports, show_status, show_why, show_logs,
                    cancel_jobs, retry_runs, examine, list_names, show_overview, publish_grid, verify_results, merge_results, export_run,
                    check_data, get_data, pack_data, show)
}  # fmt: skip

if __name__ == "__main__":
    sys.exit(main())
