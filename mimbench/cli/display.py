"""Progress on stderr while runs are running: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimbench.report.format import duration
from mimbench.store.results import read_progress

if TYPE_CHECKING:
    from mimbench.plan.graph import Planned


class Lines:
    """One line when a run starts and one when it ends."""

    def __init__(self, total: int, done: int) -> None:
        self.total, self.done, self.begun = total, done, time.monotonic()

    def started(self, run: Planned) -> None:
        self._say(f"start   {run.name} (seed {run.spec['seed']})")

    def ended(self, run: Planned, outcome: str, seconds: float) -> None:
        self.done += outcome == "done"
        self._say(f"{outcome:7} {run.name} (seed {run.spec['seed']}) {seconds:.0f} s   [{self.done}/{self.total}]")

    def tick(self, running: dict[str, Path]) -> None:
        """No line in between."""

    def close(self) -> None:
        """Nothing to close."""

    def _say(self, text: str) -> None:
        print(f"[{time.monotonic() - self.begun:6.0f} s] {text}", file=sys.stderr, flush=True)


class Live(Lines):
    """The same lines, and below them a bar per running run, with its rate and the time left."""

    REDRAW_SECONDS = 0.5

    def __init__(self, total: int, done: int) -> None:
        super().__init__(total, done)
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self.progress = Progress(
            TextColumn("{task.description:32}"), BarColumn(), TextColumn("{task.fields[detail]}"),
            console=Console(stderr=True), transient=True,
        )  # fmt: skip
        self.all = self.progress.add_task("runs", total=total, completed=done, detail=f"{done}/{total}")
        self.tasks: dict[str, Any] = {}
        self.last = 0.0
        self.progress.start()

    def tick(self, running: dict[str, Path]) -> None:
        if time.monotonic() - self.last < self.REDRAW_SECONDS:
            return
        self.last = time.monotonic()
        self.progress.update(self.all, completed=self.done, detail=f"{self.done}/{self.total}")
        for name in set(self.tasks) - set(running):
            self.progress.remove_task(self.tasks.pop(name))
        for name, work in running.items():
            if name not in self.tasks:
                self.tasks[name] = self.progress.add_task(name, total=None, detail="")
            if now := read_progress(work):
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


def make(total: int, done: int) -> Lines:
    return Live(total, done) if sys.stderr.isatty() else Lines(total, done)
