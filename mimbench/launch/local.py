"""Plan -> this machine: up to N runs at a time in processes of their own, seed by seed, parents first.

Every process is forked from one warmed-up server, so that the seconds of importing torch and mmseg are paid once. The
launcher keeps no state: it reads the folders, so it may be killed and started again, or run twice at once.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Protocol

from mimbench.errors import ProcessDied
from mimbench.plan.graph import Plan, Planned
from mimbench.store.files import side_by_side, write_json
from mimbench.store.records import read_grid
from mimbench.store.results import RunFolder, Store

EXIT_DONE, EXIT_FAILED, EXIT_TAKEN, EXIT_STOPPED = 0, 1, 75, 130  # of the process of a run
POLL_SECONDS = 0.1
LOOK_SECONDS = 2.0  # between looks at runs that another process is at


class Watcher(Protocol):
    """Told of what happens: a terminal display, or plain lines."""

    def started(self, run: Planned) -> None: ...
    def ended(self, run: Planned, outcome: str, seconds: float) -> None: ...
    def tick(self, running: dict[str, Path]) -> None: ...


@dataclass
class Outcome:
    failed: list[str] = field(default_factory=list)
    blocked: list[str] = field(default_factory=list)  # their parents failed
    interrupted: bool = False


@dataclass
class _Child:
    run: Planned
    process: ForkServerProcess
    started: float
    slot: int
    told: bool = False  # to stop


def process_count(wanted: int | None) -> int:
    """One process a GPU, or one a core."""
    import torch

    if torch.cuda.is_available():
        return min(wanted or torch.cuda.device_count(), torch.cuda.device_count())
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return wanted or len(cores)


class Local:
    """Carries out a plan on this machine."""

    def __init__(
        self,
        store: Store,
        runs: dict[str, Planned],
        processes: int,
        watcher: Watcher,
        *,
        options: dict[str, Any] | None = None,
    ) -> None:
        self.store, self.runs, self.watcher = store, runs, watcher
        self.processes, self.options = processes, options or {}
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["mimbench.launch.worker"])
        self.children: list[_Child] = []
        self.outcome = Outcome()
        self.waiting: dict[str, Planned] = {}
        self.asked_to_stop = self._obeyed = 0
        self._looked: dict[str, float] = {}

    def run(self, on_progress: Callable[[], None] = lambda: None) -> Outcome:
        """Until everything wanted is done, failed or blocked. `on_progress` is called after each run that ends."""
        self.waiting = wanted(self.runs, self.store)
        previous = signal.signal(signal.SIGINT, self._ask), signal.signal(signal.SIGTERM, self._ask)
        try:
            self._warm_up()
            while self.waiting or self.children:
                self._obey()
                self._start_what_can()
                if self._reap():
                    on_progress()
                if self.asked_to_stop and not self.children:
                    break
                self.watcher.tick({c.run.name: self.store.run(c.run.name).work for c in self.children})
                time.sleep(POLL_SECONDS)
        finally:
            for child in self.children:
                child.process.kill()
            signal.signal(signal.SIGINT, previous[0])
            signal.signal(signal.SIGTERM, previous[1])
        self.outcome.interrupted = self.asked_to_stop > 0 and bool(self.waiting)
        return self.outcome

    def _warm_up(self) -> None:
        """Start the fork server. Its processes never see a terminal's Ctrl-C, only what the launcher passes on."""
        resource_tracker.ensure_running()  # first: starting it would unblock the signal again
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            forkserver.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _ask(self, *_: Any) -> None:
        """A flag alone: the loop obeys it, also for a process that is being started right now."""
        self.asked_to_stop += 1

    def _obey(self) -> None:
        """First time: every run finishes its step, saves and stops. Second: now."""
        if self.asked_to_stop > self._obeyed:
            words = "stopping after this step; once more to stop now" if self.asked_to_stop == 1 else "stopped"
            print(f"\n{words}", file=sys.stderr, flush=True)
            self._obeyed = self.asked_to_stop
        for child in self.children:
            if self.asked_to_stop > 1:
                child.process.kill()
            elif self.asked_to_stop and not child.told:
                child.process.terminate()
                child.told = True

    def _start_what_can(self) -> None:
        if self.asked_to_stop:
            return
        for name, run in list(self.waiting.items()):
            if len(self.children) >= self.processes:
                return
            lost = [p for p in run.parents if p in self.outcome.failed or p in self.outcome.blocked]
            if lost:
                del self.waiting[name]
                self.outcome.blocked.append(name)
            elif not any(p in self.waiting or self._is_running(p) for p in run.parents):
                self._start(run)

    def _is_running(self, name: str) -> bool:
        return any(c.run.name == name for c in self.children)

    def _start(self, run: Planned) -> None:
        if time.monotonic() - self._looked.get(run.name, -LOOK_SECONDS) < LOOK_SECONDS:
            return
        folder = self.store.run(run.name)
        if folder.claimed():  # another launcher is at it: look again later
            self._looked[run.name] = time.monotonic()
            return
        del self.waiting[run.name]
        if folder.settled():  # by another launcher, meanwhile
            return
        slot = next(i for i in range(self.processes) if all(c.slot != i for c in self.children))
        arguments = (str(self.store.root), run.name, slot, self.options)
        process = self.context.Process(target=_child, args=arguments, name=run.name)
        process.start()
        self.children.append(_Child(run, process, time.monotonic(), slot))
        self.watcher.started(run)

    def _reap(self) -> bool:
        ended = [c for c in self.children if c.process.exitcode is not None]
        for child in ended:
            self.children.remove(child)
            self._settle(child)
        return bool(ended)

    def _settle(self, child: _Child) -> None:
        run, seconds, code = child.run, time.monotonic() - child.started, child.process.exitcode
        folder = self.store.run(run.name)
        if folder.settled():
            self.watcher.ended(run, "done", seconds)
        elif code == EXIT_TAKEN:
            self.waiting = {run.name: run, **self.waiting}
            self._looked[run.name] = time.monotonic()
        elif code == EXIT_STOPPED or (self.asked_to_stop and code != EXIT_FAILED):
            self.watcher.ended(run, "stopped", seconds)
            self.waiting = {run.name: run, **self.waiting}
        else:
            if folder.state() != "failed":
                _record_death(folder, code)
            self.outcome.failed.append(run.name)
            self.watcher.ended(run, "failed", seconds)


def _child(root: str, name: str, slot: int, options: dict[str, Any]) -> None:
    from mimbench.launch.worker import main

    sys.exit(main(root, name, slot, options))


def _record_death(folder: RunFolder, code: int | None) -> None:
    """A process that was killed or crashed leaves no word of its own."""
    attempts = sorted((folder.path / "attempts").glob("*.json"))
    attempt = attempts[-1].stem if attempts else folder.begin_attempt({"host": socket.gethostname()})
    what = f"signal {-code} ({signal.Signals(-code).name})" if code is not None and code < 0 else f"exit code {code}"
    folder.fail(
        attempt, ProcessDied(f"the process ended with {what} and left no result; see {folder.work / 'log.txt'}")
    )


def wanted(runs: dict[str, Planned], store: Store) -> dict[str, Planned]:
    """What is not done, in order; and done parents whose weights are gone although a child still needs them."""
    needed = {name for name in runs if not store.run(name).done()}
    for name, run in reversed(runs.items()):
        if name in needed:
            for parent in run.parents:
                if not store.run(parent).has_weights():
                    needed.add(parent)
    return {name: run for name, run in runs.items() if name in needed}


def from_folders(names: Iterable[str], store: Store) -> dict[str, Planned]:
    """Runs as their folders describe them, and all they descend from: parents first. Needs no grid file."""
    found: dict[str, Planned] = {}

    def add(name: str) -> None:
        if name not in found:
            spec = store.run(name).spec()
            parents = tuple(spec.get("parents", {}).values())
            for parent in parents:
                add(parent)
            found[name] = Planned(name, spec, parents)

    for name in names:
        add(name)
    return found


def prepare(plan: Plan, store: Store) -> None:
    """Write down what will be computed. A folder holding something else under a name stops everything here."""
    store.check_writable()
    side_by_side(lambda run: store.run(run.name).create(run.spec), plan.runs.values())
    for folder in map(store.run, plan.runs):
        if folder.done():
            folder.result()  # a corrupt one is named now, not in the report
    merge_record(plan, store)


def merge_record(plan: Plan, store: Store) -> None:
    """The grid's record. Rows and seeds of other calls stay in it where row and columns still mean the same.

    Of seeds those that go on from these, as `--seeds 5` before `--seeds 1` leaves them; never those that a list once named,
    perhaps for choosing settings on.
    """
    record, path = plan.record(), store.grid_path(plan.grid.name, plan.grid.scale)
    if path.exists():
        old = read_grid(path)
        if [c["fingerprint"] for c in old["columns"]] == [c["fingerprint"] for c in record["columns"]]:
            known = {row["name"]: row for row in old["rows"]}
            for row in record["rows"]:
                earlier = known.get(row["name"], {})
                if earlier.get("key") == row["key"]:
                    row["runs"] = {**earlier["runs"], **row["runs"]}
            seeds = set(plan.grid.seeds)
            if not plan.grid.only_these_seeds:
                found = {int(seed) for row in record["rows"] for seed in row["runs"]}
                seeds |= set(itertools.takewhile(found.__contains__, itertools.count()))
            for row in record["rows"]:
                row["runs"] = {seed: runs for seed, runs in row["runs"].items() if int(seed) in seeds}
            record["seeds"] = sorted(seeds)
    compared = {row.reference for row in plan.grid.rows} | {(plan.grid.primary or {}).get("row")}
    absent = set(plan.grid.left_out) - compared
    record["rows"] = [row for row in record["rows"] if row["runs"] or row["name"] not in absent]
    write_json(path, record)
