"""The command line: one short function a subcommand. Heavy imports stay inside, so that --help is quick."""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mimbench.arguments import make_parser
from mimbench.errors import RunFailed, UserError, unknown
from mimbench.store import Store

if TYPE_CHECKING:
    from mimbench.launch import Outcome
    from mimbench.plan import Plan, Planned
    from mimbench.slurm.profile import Profile

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130


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
    count, profile = _where(options.on)
    _check_place(options)
    plan = _plan(options)
    store = Store(options.results)
    grid = (plan.grid.name, plan.grid.scale)
    if options.dry_run:
        code = _print_plan(plan, store)
        return _print_scripts(plan.runs, grid, store, profile) if profile else code
    from mimbench import launch

    if profile:
        from mimbench.slurm.submit import check

        check(plan.runs, profile)
    launch.prepare(plan, store)
    if profile:
        return _submit(plan.runs, grid, store, profile, options)
    left = launch.wanted(plan.runs, store)
    if not left:
        print(f"All {len(plan.runs)} runs are done already; nothing to compute.", file=sys.stderr)
        return _finish(grid, store, launch.Outcome(), options)
    outcome = _run_here(plan.runs, store, count, options, on_progress=_Tables(plan, store))
    launch.merge_record(plan, store)  # another call may have written its rows meanwhile
    return _finish(grid, store, outcome, options)


def _where(on: str) -> tuple[int | None, Profile | None]:
    """On this machine: the number of runs at a time, if it was said. On SLURM: the profile, read and checked."""
    found = re.fullmatch(r"(local)(?::([1-9]\d*))?|(slurm)(?::(.*))?", on)
    if not found:
        raise UserError(f"--on {on}: must be local, local:N (runs at a time) or slurm:PROFILE.")
    if found[1]:
        return int(found[2]) if found[2] else None, None
    from mimbench.slurm.profile import known, load_profile

    if not found[4]:
        raise UserError(f"--on slurm: needs a profile, slurm:PROFILE. There are: {', '.join(known())}.")
    return None, load_profile(found[4])


def _check_place(options: argparse.Namespace) -> None:
    if options.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise UserError("--tensorboard: tensorboard is not installed; pip install 'mimbench[tensorboard]'.")
    for name in ("loader_workers", "micro_batch", "checkpoint_seconds"):
        value = getattr(options, name)
        if value is not None and value < (1 if name == "micro_batch" else 0):
            raise UserError(f"--{name.replace('_', '-')}: must not be {value}.")


def _place(options: argparse.Namespace) -> dict[str, object]:
    """What the command line says of it; the rest is the profile's or the machine's default."""
    return {
        "workers": options.loader_workers, "micro_batch": options.micro_batch, "recompute": options.recompute or None,
        "checkpoint_seconds": options.checkpoint_seconds, "tensorboard": options.tensorboard or None,
    }  # fmt: skip


def _run_here(
    runs: dict[str, Planned],
    store: Store,
    count: int | None,
    options: argparse.Namespace,
    on_progress: Callable[[], None],
) -> Outcome:
    from mimbench import display, launch

    watcher = display.make(len(runs), len(runs) - len(launch.wanted(runs, store)))
    place = {key: value for key, value in _place(options).items() if value is not None}
    local = launch.Local(store, runs, launch.process_count(count), watcher, options=place)
    try:
        return local.run(on_progress=on_progress)
    finally:
        watcher.close()


def _submit(
    runs: dict[str, Planned], grid: tuple[str, str], store: Store, profile: Profile, options: argparse.Namespace
) -> int:
    """Submit and return; nothing here need stay alive."""
    from mimbench.slurm.submit import accumulation, submit

    outcome = submit(runs, grid, store, profile, _place(options))
    for array, kind, tasks in outcome.arrays:
        words = {
            w
            for n, run in runs.items()
            if n in outcome.jobs and run.kind == kind and (w := accumulation(run.spec, profile.of(kind)))
        }
        print("; ".join([f"submitted {kind}: job {array}, {tasks} {'run' if tasks == 1 else 'runs'}", *sorted(words)]))
    if outcome.queued:
        print(f"{len(outcome.queued)} runs are queued or running already")
    if outcome.elsewhere:
        print(f"{len(outcome.elsewhere)} runs are being done by processes outside the queue")
    for reason, names in _by_reason(outcome.refused).items():
        print(
            f"not submitted: {len(names)} runs ({names[0]}{', ...' if len(names) > 1 else ''}): {reason}",
            file=sys.stderr,
        )
    if not (outcome.arrays or outcome.queued or outcome.elsewhere or outcome.refused):
        print(f"All {len(runs)} runs are done already; nothing to submit.", file=sys.stderr)
        return _finish(grid, store, None, options)
    results = [] if options.results == "results" else ["--results", options.results]
    print(f"To see how far it is: {_command(['status', grid[0], '--watch', *results])}")
    return EXIT_FAILED if outcome.refused else EXIT_OK


def _by_reason(refused: dict[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, reason in refused.items():
        found.setdefault(reason, []).append(name)
    return found


def _print_scripts(runs: dict[str, Planned], grid: tuple[str, str], store: Store, profile: Profile) -> int:
    from mimbench.slurm.submit import accumulation, scripts

    for group, script in scripts(runs, grid, store, profile):
        parents = sum(bool(run.parents) for run in group.runs)
        print(
            f"\n# {len(group.runs)} {group.kind} runs"
            + (f"; {parents} of them wait, each for its own parents" if parents else "")
        )
        words = sorted({w for run in group.runs if (w := accumulation(run.spec, profile.of(group.kind)))})
        print("".join(f"# {w}\n" for w in words) + script)
    return EXIT_OK


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


def _finish(grid: tuple[str, str], store: Store, outcome: Outcome | None, options: argparse.Namespace) -> int:
    """What failed on stderr; the table on stdout, and as the last line how to go on."""
    from mimbench.report.build import build_report
    from mimbench.report.terminal import print_table
    from mimbench.store import read_grid

    for name in outcome.failed if outcome else ():
        failure = store.run(name).last_failure() or {}
        print(f"failed: {name}: {failure.get('type')}: {failure.get('message')}", file=sys.stderr)
    if outcome and outcome.blocked:
        print(f"not run, for a parent failed: {', '.join(outcome.blocked)}", file=sys.stderr)
    folder = build_report(store, *grid)
    print_table(store, *grid)
    print(f"Report: {folder / 'index.html'}", flush=True)
    if outcome and outcome.interrupted:
        print(f"Interrupted; nothing finished is lost. To go on: {_command(options.given)}", flush=True)
        return EXIT_INTERRUPTED
    if outcome and outcome.failed:
        print(f"{len(outcome.failed)} runs failed. To try them again: {_command(options.given)}", flush=True)
        return EXIT_FAILED
    if options.command == "run_grid" and len(read_grid(store.grid_path(*grid))["seeds"]) == 1:
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
    """By row and kind: done, running, queued, failed, blocked; then where, and why."""
    from mimbench import status

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
    from mimbench.seen import find_run
    from mimbench.status import why_lines

    store = Store(options.results)
    _print_all(why_lines(store, find_run(store, options.run)))
    return EXIT_OK


def show_logs(options: argparse.Namespace) -> int:
    from mimbench.control import logs
    from mimbench.seen import find_run

    store = Store(options.results)
    for text in logs(store, find_run(store, options.run), options.follow):
        print(text, end="", flush=True)
    return EXIT_OK


def cancel_jobs(options: argparse.Namespace) -> int:
    from mimbench.control import cancel

    _print_all(cancel(Store(options.results), options.grid))
    return EXIT_OK


def retry_runs(options: argparse.Namespace) -> int:
    """Needs no grid file: what the runs compute, and of whom they descend, stands in their folders."""
    from mimbench.control import records, to_retry
    from mimbench.seen import look

    count, profile = _where(options.on)
    _check_place(options)
    store, worst = Store(options.results), EXIT_OK
    for name, scale, names in records(store, options.grid):
        seen, warning = look(store, names)
        if warning and profile:
            raise UserError(warning)
        chosen = to_retry(seen, options.failed)
        print(f"{name} at scale {scale}: {len(chosen)} runs to try again", file=sys.stderr)
        if not chosen:
            continue
        from mimbench import launch

        runs = launch.from_folders(chosen, store)
        if profile:
            worst = max(worst, _submit(runs, (name, scale), store, profile, options))
        else:
            outcome = _run_here(runs, store, count, options, on_progress=lambda: None)
            worst = max(worst, _finish((name, scale), store, outcome, options))
            if outcome.interrupted:
                return EXIT_INTERRUPTED
    return worst


def examine(options: argparse.Namespace) -> int:
    from mimbench.slurm import doctor

    _, profile = _where(options.on)
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
