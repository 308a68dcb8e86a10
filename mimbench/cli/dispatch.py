"""What `run grid` and `retry` share: where the runs go, and what is said when they were sent there or have ended there."""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mimbench.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, UserError
from mimbench.store.records import read_grid
from mimbench.store.results import Store

if TYPE_CHECKING:
    from mimbench.launch.local import Outcome
    from mimbench.plan.graph import Plan, Planned
    from mimbench.slurm.profile import Profile


def where(on: str) -> tuple[int | None, Profile | None]:
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


def check_place(options: argparse.Namespace) -> None:
    if options.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise UserError("tensorboard: is asked for and not installed; pip install 'mimbench[tensorboard]'.")
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


def run_here(
    runs: dict[str, Planned],
    store: Store,
    count: int | None,
    options: argparse.Namespace,
    on_progress: Callable[[], None],
) -> Outcome:
    from mimbench.cli import display
    from mimbench.launch import local as launch

    watcher = display.make(len(runs), len(runs) - len(launch.wanted(runs, store)))
    place = {key: value for key, value in _place(options).items() if value is not None}
    local = launch.Local(store, runs, launch.process_count(count), watcher, options=place)
    try:
        return local.run(on_progress=on_progress)
    finally:
        watcher.close()


def send(
    runs: dict[str, Planned], grid: tuple[str, str], store: Store, profile: Profile, options: argparse.Namespace
) -> int:
    """Submit and return; nothing here need stay alive."""
    from mimbench.launch.local import Outcome
    from mimbench.slurm.submit import accumulation, submit

    outcome = submit(runs, grid, store, profile, _place(options))
    for array, kind, tasks in outcome.arrays:
        ours = [run for name, run in runs.items() if name in outcome.jobs and run.kind == kind]
        words = {w for run in ours if (w := accumulation(run.spec, profile.of(kind), options.micro_batch))}
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
        return finish(grid, store, Outcome(), options)
    results = [] if options.results == "results" else ["--results", options.results]
    print(f"To see how far it is: {_command(['status', grid[0], '--watch', *results])}")
    return EXIT_FAILED if outcome.refused else EXIT_OK


def _by_reason(refused: dict[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, reason in refused.items():
        found.setdefault(reason, []).append(name)
    return found


def print_scripts(
    runs: dict[str, Planned], grid: tuple[str, str], store: Store, profile: Profile, options: argparse.Namespace
) -> int:
    from mimbench.slurm.submit import accumulation, scripts

    for group, script in scripts(runs, grid, store, profile):
        parents = sum(bool(run.parents) for run in group.runs)
        print(
            f"\n# {len(group.runs)} {group.kind} runs"
            + (f"; {parents} of them wait, each for its own parents" if parents else "")
        )
        request = profile.of(group.kind)
        words = sorted({w for run in group.runs if (w := accumulation(run.spec, request, options.micro_batch))})
        print("".join(f"# {w}\n" for w in words) + script)
    return EXIT_OK


class Tables:
    """Writes the report each time a seed is complete; the last one is `finish`'s."""

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


def finish(grid: tuple[str, str], store: Store, outcome: Outcome, options: argparse.Namespace) -> int:
    """What failed on stderr; the table on stdout, and as the last line how to go on."""
    from mimbench.report.build import build_report
    from mimbench.report.terminal import print_table

    for name in outcome.failed:
        failure = store.run(name).last_failure() or {}
        print(f"failed: {name}: {failure.get('type')}: {failure.get('message')}", file=sys.stderr)
    if outcome.blocked:
        print(f"not run, for a parent failed: {', '.join(outcome.blocked)}", file=sys.stderr)
    folder = build_report(store, *grid)
    print_table(store, *grid)
    print(f"Report: {folder / 'index.html'}", flush=True)
    if outcome.interrupted:
        print(f"Interrupted; nothing finished is lost. To go on: {_command(options.given)}", flush=True)
        return EXIT_INTERRUPTED
    if outcome.failed:
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
