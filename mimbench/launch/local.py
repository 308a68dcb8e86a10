"""Plan -> this machine: up to N runs at a time, one process each, seed by seed, parents first.

All processes are forked from one server, which imports torch and mmseg once. The launcher keeps no state but reads the
folders: it may be killed and started again, or run twice at once.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Protocol

from mimbench.errors import EXIT_FAILED, EXIT_HELD, EXIT_INTERRUPTED, ProcessDied, UserError
from mimbench.launch.state import failure
from mimbench.plan.graph import Planned, wanted
from mimbench.store.lease import process_start
from mimbench.store.results import RunFolder, Store

POLL_SECONDS = 0.1
HELD_SECONDS = 2.0  # before checking again a run that another process holds
SAFE_PATH = "PYTHONSAFEPATH"  # of Python itself
SERVER_DIED = 255  # what multiprocessing says of a process whose end its fork server can no longer report


class Watcher(Protocol):
    """What displays the progress."""

    def started(self, run: Planned) -> None: ...
    def ended(self, run: Planned, outcome: str, seconds: float) -> None: ...
    def tick(self, running: dict[str, Path]) -> None: ...


@dataclass
class Outcome:
    failed: dict[str, str] = field(default_factory=dict)  # run -> why
    blocked: list[str] = field(default_factory=list)  # their parents failed
    interrupted: bool = False


@dataclass
class _Child:
    run: Planned
    process: ForkServerProcess
    started: float
    slot: int
    process_start: str | None  # tells it from a later process of the same pid

    def exitcode(self) -> int | None:
        """None while it lives, also without its fork server."""
        code = self.process.exitcode
        return None if code == SERVER_DIED and self._lives() else code

    def _lives(self) -> bool:
        pid = self.process.pid
        return pid is not None and self.process_start is not None and process_start(pid) == self.process_start

    def send(self, number: signal.Signals) -> None:
        if self.process.pid is not None and self.exitcode() is None:
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, number)


def process_count(wanted: int | None) -> int:
    """By default one process per GPU, or per core; never more than GPUs."""
    import torch

    if torch.cuda.is_available():
        return min(wanted or torch.cuda.device_count(), torch.cuda.device_count())
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return wanted or len(cores)


class Local:
    """Runs a plan on this machine."""

    def __init__(
        self, store: Store, runs: dict[str, Planned], processes: int, watcher: Watcher, settings: dict[str, Any]
    ) -> None:
        self.store, self.processes, self.watcher, self.settings = store, processes, watcher, settings
        self.waiting = wanted(runs, store)
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["mimbench.launch.worker"])
        self.children: list[_Child] = []
        self.outcome = Outcome()
        self.interrupts = self._obeyed = 0
        self._not_before: dict[str, float] = {}  # of runs that another process holds

    def run(self, on_progress: Callable[[], None] = lambda: None) -> Outcome:
        """Until every run is done, failed or blocked. `on_progress` is called after each run that ends."""
        with self._signals():
            _start_server()
            while self.waiting or self.children:
                self._obey_interrupts()
                self._start_ready()
                if self._collect_ended():
                    on_progress()
                if self.interrupts and not self.children:
                    break
                self.watcher.tick({c.run.name: self.store.run(c.run.name).work for c in self.children})
                time.sleep(POLL_SECONDS)
        self.outcome.interrupted = self.interrupts > 0 and bool(self.waiting)
        return self.outcome

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Handlers that only count: the loop obeys, also for a process that is just being started."""

        def count(*_: Any) -> None:
            self.interrupts += 1

        previous = {number: signal.signal(number, count) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for child in self.children:
                child.send(signal.SIGKILL)
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _obey_interrupts(self) -> None:
        """The first: every run finishes its step, saves and stops. The second: kill."""
        count = self.interrupts
        if count == self._obeyed:
            return
        self._obeyed = count
        words = "stopping after this step; press Ctrl-C again to force" if count == 1 else "stopped"
        print(f"\n{words}", file=sys.stderr, flush=True)
        for child in self.children:
            child.send(signal.SIGTERM if count == 1 else signal.SIGKILL)

    def _start_ready(self) -> None:
        for name, run in list(self.waiting.items()):
            if self.interrupts or len(self.children) >= self.processes:
                return
            if any(p in self.outcome.failed or p in self.outcome.blocked for p in run.parents):
                del self.waiting[name]
                self.outcome.blocked.append(name)
            elif not set(run.parents) & (self.waiting.keys() | {child.run.name for child in self.children}):
                with self._failing_alone(run):
                    self._start(run)

    def _start(self, run: Planned) -> None:
        if time.monotonic() < self._not_before.get(run.name, 0):
            return
        folder = self.store.run(run.name)
        if folder.is_held():  # by another launcher's process
            self._not_before[run.name] = time.monotonic() + HELD_SECONDS
            return
        del self.waiting[run.name]
        if folder.settled():  # another launcher finished it
            return
        slot = next(i for i in range(self.processes) if all(c.slot != i for c in self.children))
        process = self.context.Process(target=_child, args=(str(self.store.root), run.name, slot, self.settings))
        process.start()
        begun = process_start(process.pid) if process.pid is not None else None
        self.children.append(_Child(run, process, time.monotonic(), slot, begun))
        self.watcher.started(run)

    def _collect_ended(self) -> bool:
        ended = [child for child in self.children if child.exitcode() is not None]
        for child in ended:
            self.children.remove(child)
            with self._failing_alone(child.run):
                self._record_end(child)
        return bool(ended)

    @contextmanager
    def _failing_alone(self, run: Planned) -> Iterator[None]:
        """A folder that cannot be read or written fails its own run; the others go on."""
        try:
            yield
        except (OSError, UserError) as error:
            self.waiting.pop(run.name, None)
            self.outcome.failed[run.name] = (
                f"{self.store.run(run.name).path}: {getattr(error, 'strerror', None) or error}"
            )
            self.watcher.ended(run, "failed", 0)

    def _record_end(self, child: _Child) -> None:
        run, seconds, code = child.run, time.monotonic() - child.started, child.exitcode()
        folder = self.store.run(run.name)
        if folder.settled():
            self.watcher.ended(run, "done", seconds)
        elif code == EXIT_HELD or (code == SERVER_DIED and folder.is_held()):
            self.waiting = {run.name: run, **self.waiting}
            self._not_before[run.name] = time.monotonic() + HELD_SECONDS
        elif code == EXIT_INTERRUPTED or (self.interrupts and code != EXIT_FAILED):
            self.waiting = {run.name: run, **self.waiting}
            self.watcher.ended(run, "stopped", seconds)
        else:
            if folder.state() != "failed":
                record_death(folder, code)
            self.outcome.failed[run.name] = failure(folder)
            self.watcher.ended(run, "failed", seconds)


def _start_server() -> None:
    """Its processes never get a terminal's Ctrl-C, only what the launcher passes on."""
    resource_tracker.ensure_running()  # first: starting it would unblock the signal again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with _safe_path():
            forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _safe_path() -> Iterator[None]:
    """The server would look for every module in the working directory first, and take a rich.py there for rich."""
    before = os.environ.get(SAFE_PATH)
    os.environ[SAFE_PATH] = "1"
    try:
        yield
    finally:
        os.environ.pop(SAFE_PATH) if before is None else os.environ.update({SAFE_PATH: before})


def _child(*arguments: Any) -> None:
    from mimbench.launch.worker import main  # with torch, which the launcher itself need not import

    sys.exit(main(*arguments))


def record_death(folder: RunFolder, code: int | None) -> None:
    """A process that was killed or crashed could not record its error."""
    attempt = folder.last_attempt().get("stamp") or folder.begin_attempt({"host": socket.gethostname()})
    how = f"signal {-code} ({signal.Signals(-code).name})" if code is not None and code < 0 else f"exit code {code}"
    if code == SERVER_DIED:
        how = "the fork server that could have said how"
    folder.fail(attempt, ProcessDied(f"the process ended with {how} and no result; see {folder.work / 'log.txt'}"))
