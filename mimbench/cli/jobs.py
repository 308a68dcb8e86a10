"""`mimbench cancel`, `retry` and `logs`: commands on runs that are under way or failed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from mimbench.errors import UserError, unknown
from mimbench.launch.logs import log_files
from mimbench.launch.state import RunState, run_states, runs_of
from mimbench.slurm import queue
from mimbench.store.files import map_threads
from mimbench.store.records import read_grid
from mimbench.store.results import RunFolder, Store

CURVE_LINES = 5  # of a finished run that printed nothing
FOLLOW_SECONDS, STATE_SECONDS = 0.5, 5.0


def states_of(store: Store, names: Iterable[str]) -> tuple[dict[str, RunState], str]:
    """The states of these runs, and a warning if SLURM's queue did not answer. The one place that chooses the queue."""
    return run_states(store, names, queue)


def where(run: RunState) -> str:
    host, job, pid = (run.owner.get(key) for key in ("host", "job", "pid"))
    return f"on {host} (job {job})" if job else f"on {host} (pid {pid})"


def grids(store: Store, wanted: str | None, scale: str | None = None) -> list[tuple[str, str]]:
    """(name, scale) of all grids, or of those named <name> or <name>.<scale>."""
    known = [path.stem for path, _ in store.grids()]
    if not known:
        raise UserError(f"{store.root}: no grid has been run there yet.")
    named = [(stem, *stem.rpartition(".")[::2]) for stem in known]
    found = [(n, s) for stem, n, s in named if wanted in (None, stem, n) and scale in (None, s)]
    if not found:
        raise unknown(str(store.root), "grid", ".".join(word for word in (wanted, scale) if word), known)
    return found


def cancel(store: Store, grid: str | None) -> Iterator[str]:
    """Cancel a grid's jobs; running ones save first. Finished runs are kept."""
    for name, scale in grids(store, grid):
        states, warning = states_of(store, runs_of(read_grid(store.grid_path(name, scale))))
        if warning:
            raise UserError(warning)
        ours = [run for run in states.values() if run.in_queue]
        # noted first: SLURM does not call a job cancelled whose parent was cancelled before it
        map_threads(_note_cancelled, ours)
        queue.cancel(run.job for run in ours if run.job)
        yield f"{name} at scale {scale}: {len(ours)} jobs cancelled; finished runs are kept; resume with `mimbench retry`"
        for run in states.values():
            if run.state == "running" and not run.in_queue:
                yield f"  {run.name} runs {where(run)}, not as a job: stop its `mimbench run grid` with Ctrl-C"


def _note_cancelled(run: RunState) -> None:
    last = run.folder.submission()
    run.folder.note_submission({"cancelled": run.job, "profile": last.get("profile"), "grid": last.get("grid")})


def to_retry(states: dict[str, RunState], *, failed_only: bool) -> list[RunState]:
    """Runs that are not done, running or queued; or only those that failed or are blocked."""
    wanted = ("failed", "blocked") if failed_only else ("failed", "blocked", "stopped", "planned")
    return [run for run in states.values() if run.state in wanted]


def profile_of(runs: list[RunState]) -> str | None:
    """The profile that these runs were last submitted with, if any of them was."""
    return next((profile for run in runs if (profile := run.folder.submission().get("profile"))), None)


def logs(store: Store, folder: RunFolder, follow: bool) -> Iterator[str]:
    """A run's logs."""
    if follow:
        yield from _follow(store, folder)
        return
    run = states_of(store, [folder.name])[0][folder.name]
    files = log_files(folder, run.job)
    if not files:
        if run.state != "done":
            raise UserError(f"{folder.path}: no log yet; the run is {run.state}. See `mimbench why {folder.name}`.")
        yield f"{folder.name} is done and printed nothing. `mimbench why {folder.name}` says what it gave.\n"
        yield from _end_of_curve(folder)
    for path in files:
        if path != folder.work / "log.txt":
            yield f"--- {path}\n"
        yield path.read_text(encoding="utf-8", errors="replace")


def _end_of_curve(folder: RunFolder) -> Iterator[str]:
    path = folder.path / "curve.csv"
    if path.exists():
        heading, *lines = path.read_text(encoding="utf-8", errors="replace").splitlines() or [""]
        yield "\n".join([f"The end of {path}:", heading, *lines[-CURVE_LINES:]]) + "\n"


def _follow(store: Store, folder: RunFolder) -> Iterator[str]:
    """The run's own log as it grows, until the run ends."""
    path, shown, ended, next_look = folder.work / "log.txt", 0, False, 0.0
    while not ended:
        if time.monotonic() > next_look:  # seldom: the controller has others to answer
            next_look = time.monotonic() + STATE_SECONDS
            ended = states_of(store, [folder.name])[0][folder.name].state not in ("running", "queued")
        if path.exists():
            with path.open(encoding="utf-8", errors="replace") as stream:
                stream.seek(shown)
                yield stream.read()
                shown = stream.tell()
        if not ended:
            time.sleep(FOLLOW_SECONDS)
    if not shown:  # the run never began: its job's output
        yield from logs(store, folder, follow=False)
