"""Progress on stderr while runs are running: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimbench.cli.remaining import Remaining
from mimbench.cli.titles import fitted
from mimbench.report.format import duration
from mimbench.store.results import read_progress

if TYPE_CHECKING:
    from mimbench.plan.graph import Planned

DETAIL = 36  # columns of `1200/1500 steps, 12.3/s, 45 s left`


class Lines:
    """One line when a run starts and one when it ends."""

    def __init__(self, total: int, done: int, names: Mapping[str, str], remaining: Remaining) -> None:
        self.total, self.done, self.begun = total, done, time.monotonic()
        self.names, self.remaining = names, remaining

    def started(self, run: Planned) -> None:
        self.remaining.started(run.name)
        self._say(f"start   {self._named(run)}{self._beside()}")

    def ended(self, run: Planned, outcome: str, seconds: float) -> None:
        self.done += outcome == "done"
        self.remaining.ended(run.name, outcome, seconds)
        self._say(f"{outcome:7} {self._named(run)} ({seconds:.0f} s){self._beside()}")

    def tick(self, running: dict[str, Path]) -> None:
        """No line in between."""

    def close(self) -> None:
        """Nothing to close."""

    def _named(self, run: Planned) -> str:
        """With the folder's name, which `mimbench logs` and `why` take."""
        title = self.names.get(run.name)
        return f"{title} [{run.name}]" if title else f"{run.name} (seed {run.spec['seed']})"

    def _beside(self) -> str:
        return f"   {self._state({})}"

    def _state(self, shares: Mapping[str, float]) -> str:
        return f"{self.done}/{self.total} runs{self.remaining.words(shares)}"

    def _say(self, text: str) -> None:
        print(f"[{time.monotonic() - self.begun:6.0f} s] {text}", file=sys.stderr, flush=True)


class Live(Lines):
    """A line per run that ended; below them a bar for the grid and one per running run, with its rate and the time left."""

    REDRAW_SECONDS = 0.5
    NARROW = 100  # columns of a terminal, below which a bar takes too much of it

    def __init__(self, total: int, done: int, names: Mapping[str, str], remaining: Remaining) -> None:
        super().__init__(total, done, names, remaining)
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        console = Console(stderr=True)
        bars = [BarColumn(bar_width=20)] if console.width >= self.NARROW else []
        self.width = max(20, console.width - DETAIL - (22 if bars else 1))
        self.progress = Progress(
            TextColumn("{task.description}", markup=False), *bars, TextColumn("{task.fields[detail]}", markup=False),
            console=console, transient=True,
        )  # fmt: skip
        self.all = self.progress.add_task("the whole grid", total=total, completed=done, detail=self._state({}))
        self.tasks: dict[str, Any] = {}
        self.last = 0.0
        self.progress.start()

    def started(self, run: Planned) -> None:
        self.remaining.started(run.name)  # its bar says so

    def _beside(self) -> str:
        return ""  # the bar of all runs says it

    def tick(self, running: dict[str, Path]) -> None:
        if time.monotonic() - self.last < self.REDRAW_SECONDS:
            return
        self.last = time.monotonic()
        notes = {name: note for name, work in running.items() if (note := read_progress(work))}
        shares = {name: note["step"] / note["steps"] for name, note in notes.items() if note["steps"]}
        self.progress.update(self.all, completed=self.done, detail=self._state(shares))
        for name in set(self.tasks) - set(running):
            self.progress.remove_task(self.tasks.pop(name))
        for name in running:
            if name not in self.tasks:
                title = fitted(self.names.get(name, name), self.width)
                self.tasks[name] = self.progress.add_task(title, total=None, detail="")
            if now := notes.get(name):
                self.progress.update(
                    self.tasks[name], total=now["steps"], completed=now["step"], detail=progress_words(now)
                )

    def close(self) -> None:
        self.progress.stop()

    def _say(self, text: str) -> None:
        self.progress.console.print(f"[{time.monotonic() - self.begun:6.0f} s] {text}", markup=False, highlight=False)


def progress_words(progress: dict[str, Any]) -> str:
    """`12/500 steps, 3.2/s, 45 s left, 9.8 GiB of GPU memory`."""
    step, steps, rate = progress["step"], progress["steps"], progress["steps_per_second"]
    words = [f"{step}/{steps} steps", f"{rate:.1f}/s"]
    if rate:
        words.append(f"{duration((steps - step) / rate)} left")
    if memory := progress.get("gpu_memory_bytes"):
        words.append(f"{memory / 2**30:.1f} GiB of GPU memory")
    return ", ".join(words)


def make(total: int, done: int, names: Mapping[str, str], remaining: Remaining) -> Lines:
    return (Live if sys.stderr.isatty() else Lines)(total, done, names, remaining)
