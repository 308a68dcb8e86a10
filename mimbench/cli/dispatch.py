"""Sending runs to where they are executed, and what is printed when they were sent or have ended."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mimbench.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, UserError
from mimbench.inert import for_terminal
from mimbench.report.format import count
from mimbench.store.results import Store

if TYPE_CHECKING:
    from mimbench.launch.local import Outcome
    from mimbench.plan.graph import Plan, Planned
    from mimbench.report.table import Table
    from mimbench.slurm.profile import Profile

    Runs = dict[str, Planned]

SHOWN = 3  # skipped runs; the rest is counted


def parse_target(on: str) -> tuple[int | None, Profile | None]:
    """`--on` -> the number of runs at a time on this machine, if given; or the SLURM profile, read and checked."""
    place, _, detail = on.partition(":")
    if on == "local":
        return None, None
    if place == "local" and detail.isdecimal() and int(detail):
        return int(detail), None
    if place != "slurm":
        raise UserError(f"--on {on}: must be local, local:N (runs at a time) or slurm:PROFILE.")
    from mimbench.slurm.profile import known, load_profile

    if not detail:
        raise UserError(f"--on slurm: needs a profile, slurm:PROFILE. Available: {', '.join(known())}.")
    return None, load_profile(detail)


@dataclass(frozen=True)
class Dispatch:
    """Executes runs of one grid and reports how it went."""

    store: Store
    grid: tuple[str, str]  # name, scale
    settings: dict[str, Any]  # of the runtime, as given on the command line
    argv: list[str]

    def here(
        self,
        runs: Runs,
        processes: int | None,
        on_progress: Callable[[], None] = lambda: None,
        expected: Mapping[str, float] | None = None,
    ) -> Outcome:
        """`expected`: the seconds that each run may take, where they were estimated."""
        from mimbench.cli import display
        from mimbench.cli.remaining import Remaining
        from mimbench.cli.titles import titles
        from mimbench.launch.local import Local, process_count
        from mimbench.plan.graph import wanted
        from mimbench.store.records import read_grid

        at_a_time, done = process_count(processes), len(runs) - len(wanted(runs, self.store))
        names = titles([read_grid(self.store.grid_path(*self.grid))])
        watcher = display.make(len(runs), done, names, Remaining(expected or {}, at_a_time))
        try:
            return Local(self.store, runs, at_a_time, watcher, self.settings).run(on_progress)
        finally:
            watcher.close()

    def submit(self, runs: Runs, profile: Profile) -> int:
        """Submit and return; no process has to stay alive here."""
        from mimbench.launch.local import Outcome
        from mimbench.slurm.submit import submit

        sent = submit(runs, self.grid, self.store, profile, self.settings)
        for job, array in sent.arrays.items():
            summary = f"submitted {array[0].kind}: job {job}, {count(len(array), 'run')}"
            print(summary, *self._batches(array, profile), sep="; ")
        if sent.queued:
            print(f"{count(len(sent.queued), 'run')} already queued or running")
        if sent.elsewhere:
            print(f"{count(len(sent.elsewhere), 'run')} executed by processes outside the queue")
        reasons = defaultdict(list)
        for name, reason in sent.refused.items():
            reasons[reason].append(name)
        for reason, names in reasons.items():
            shown = names[0] + (", ..." if len(names) > 1 else "")
            print(f"not submitted: {count(len(names), 'run')} ({shown}): {for_terminal(reason)}", file=sys.stderr)
        if not (sent.arrays or sent.queued or sent.elsewhere or sent.refused):
            print(f"All {len(runs)} runs are done; nothing to submit.", file=sys.stderr)
            return self.finish(Outcome())
        results = [] if str(self.store.root) == "results" else ["--results", str(self.store.root)]
        print(f"Follow the progress: {command(['status', self.grid[0], '--watch', *results])}")
        return EXIT_FAILED if sent.refused else EXIT_OK

    def print_scripts(self, runs: Runs, profile: Profile) -> int:
        from mimbench.slurm.submit import scripts

        for array, script in scripts(runs, self.grid, self.store, profile):
            waiting = sum(bool(run.parents) for run in array)
            waits = f"; {waiting} of them wait, each for its own parents" if waiting else ""
            print(f"\n# {len(array)} {array[0].kind} runs{waits}")
            for words in self._batches(array, profile):
                print(f"# {words}")
            print(script)
        return EXIT_OK

    def _batches(self, runs: list[Planned], profile: Profile) -> list[str]:
        """How ranks and micro-batches make up the batches of an array's runs."""
        from mimbench.slurm.submit import accumulation

        request, micro_batch = profile.of(runs[0].kind), self.settings.get("micro_batch")
        return sorted({accumulation(run.spec, request, micro_batch) for run in runs} - {""})

    def finish(self, outcome: Outcome, *, suggest_seeds: bool = False) -> int:
        """Failures on stderr; the table on stdout, and last the command to go on with."""
        for name, why in outcome.failed.items():
            print(f"failed: {name}: {for_terminal(why)}", file=sys.stderr)
        if outcome.blocked:
            shown = ", ".join(outcome.blocked[:SHOWN]) + (", ..." if len(outcome.blocked) > SHOWN else "")
            print(f"skipped, a parent run failed: {count(len(outcome.blocked), 'run')} ({shown})", file=sys.stderr)
        table = show_report(self.store, *self.grid, empty=not outcome.interrupted)
        if outcome.interrupted:
            print(f"Interrupted; finished runs are kept. To resume: {command(self.argv)}", flush=True)
            return EXIT_INTERRUPTED
        if outcome.failed:
            print(f"{count(len(outcome.failed), 'run')} failed. To retry: {command(self.argv)}", flush=True)
            return EXIT_FAILED
        if suggest_seeds and len(table.grid.seeds) == 1:
            print(f"No confidence interval with one seed. For three: {command(_with_seeds(self.argv, 3))}", flush=True)
        return EXIT_OK


def show_report(store: Store, name: str, scale: str, *, empty: bool = True) -> Table:
    """Write a grid's report; its table on stdout. `empty`: also one without a number yet."""
    from mimbench.report.build import build_report
    from mimbench.report.terminal import print_table

    folder, table = build_report(store, name, scale)
    if not (empty or any(cell.summary for cell in table.cells.values())):
        return table
    print_table(table)
    print(f"Report: {folder / 'index.html'}", flush=True)
    return table


def seed_reports(plan: Plan, store: Store) -> Callable[[], None]:
    """Writes the report each time a seed is complete; the last one is written by `finish`."""

    def complete() -> set[int]:
        return {seed for seed in plan.grid.seeds if all(store.run(name).done() for name in plan.of_seed(seed))}

    reported = complete()

    def on_progress() -> None:
        ready = complete() - reported
        reported.update(ready)
        if not ready or reported == set(plan.grid.seeds):
            return
        try:
            from mimbench.report.build import build_report

            folder, _ = build_report(store, plan.grid.name, plan.grid.scale)
            print(f"seed {min(ready)} is complete: {folder / 'index.html'}", file=sys.stderr)
        except Exception as error:  # a report must never end the training of the other seeds
            print(f"seed {min(ready)} is complete; its report failed: {for_terminal(str(error))}", file=sys.stderr)

    return on_progress


def command(words: list[str]) -> str:
    """A command line that can be pasted here."""
    program, name = sys.argv[0], [sys.executable, "-m", "mimbench"]
    if os.path.basename(program) == "mimbench":
        name = ["mimbench" if shutil.which("mimbench") == program else os.path.relpath(program)]
    return shlex.join([*name, *words])


def _with_seeds(argv: list[str], seeds: int) -> list[str]:
    kept = [word for word, last in zip(argv, ["", *argv], strict=False) if "--seeds" not in (word, last)]
    return [*kept, "--seeds", str(seeds)]
