"""The states of runs, from their folders and the queue: correct whoever submitted them, with or without accounting."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from mimbench.errors import UserError, nearest
from mimbench.launch.logs import last_lines, log_files
from mimbench.launch.queue import Job, Queue, QueueUnavailable
from mimbench.store.results import RunFolder, Store, read_progress

STATES = ("done", "running", "queued", "failed", "blocked", "stopped", "planned")
# The state of a run: per row what became of its job, per column the state of its folder
FOLDER = ("done", "running", "failed", "stopped", "planned")
TABLE = {
    "none": ("done", "running", "failed", "stopped", "planned"),  # never submitted, or another process has the run now
    "unknown": ("done", "running", "failed", "queued", "queued"),  # the queue did not answer
    "waiting": ("queued", "queued", "queued", "queued", "queued"),
    "active": ("running", "running", "running", "running", "running"),
    "cancelled": ("done", "stopped", "stopped", "stopped", "planned"),
    "failed": ("done", "failed", "failed", "failed", "failed"),
    "vanished": ("done", "failed", "failed", "failed", "failed"),  # without reporting an error
}


@dataclass(frozen=True)
class RunState:
    folder: RunFolder
    state: str  # one of STATES
    reason: str = ""  # why it failed or was stopped; of a queued run, why it waits
    job: str | None = None  # that was submitted for it
    in_queue: bool = False  # the job is still in the queue
    owner: dict[str, Any] = field(default_factory=dict)  # of a running run: host, and pid or job
    progress: dict[str, Any] = field(default_factory=dict)  # of a running run: step, steps, steps_per_second, ...
    blocked_by: str | None = None  # the ancestor that failed

    @property
    def name(self) -> str:
        return self.folder.name


def run_states(store: Store, names: Iterable[str], queue: Queue) -> tuple[dict[str, RunState], str]:
    """The state of every run, and a warning if the queue did not answer."""
    folders = [store.run(name) for name in names]
    jobs = {folder.name: [] if folder.settled() else _jobs_of(folder) for folder in folders}
    submitted, warning = [of_run for of_run in jobs.values() if of_run], ""
    queued: dict[str, Job] | None = {}
    ended: dict[str, Job] = {}
    try:
        if submitted:
            queued = queue.queued([job for of_run in submitted for job in of_run])
            ended = queue.ended({_current(of_run, queued) for of_run in submitted} - queued.keys())
    except QueueUnavailable as error:
        queued = None
        warning = f"the queue is unavailable ({error}); submitted runs are shown in their last known state"
    states = {}
    for folder in folders:
        job = _current(jobs[folder.name], queued or {})
        try:
            states[folder.name] = _state_of(folder, jobs[folder.name], job, queued, ended)
        except (UserError, OSError) as error:  # a damaged file of one run hides no other
            states[folder.name] = RunState(folder, "failed", str(error), job or None, job in (queued or {}))
    return _with_blocked(states), warning


def _jobs_of(folder: RunFolder) -> list[str]:
    """The jobs it was submitted as, the last first: an older one may still hold its lease."""
    try:
        submissions = reversed(folder.submissions())
    except UserError:
        return []
    named = (facts.get("job") or facts.get("cancelled") for facts in submissions)
    return list(dict.fromkeys(job for job in named if job))


def _current(jobs: list[str], queued: dict[str, Job]) -> str:
    """The one that is in the queue, else the last; empty without any."""
    return next((job for job in jobs if job in queued), jobs[0] if jobs else "")


def _state_of(
    folder: RunFolder, jobs: list[str], job: str, queued: dict[str, Job] | None, ended: dict[str, Job]
) -> RunState:
    if not job:
        became = "none"
    elif queued is None:
        became = "unknown"
    else:
        became = _what_became(job, folder, jobs, queued.get(job), ended.get(job))
    state = TABLE[became][FOLDER.index(folder.state())]
    run = RunState(folder, state, job=None if became == "none" else job, in_queue=became in ("waiting", "active"))
    if state == "running":
        return _running(run, jobs, (queued or {}).get(job))
    if state == "queued":
        return replace(run, reason=queued[job].reason if queued else "last known state")
    if state == "failed":
        return replace(run, reason=_vanished(folder, job, ended.get(job)) if became == "vanished" else failure(folder))
    return replace(run, reason=f"job {job} was cancelled" if became == "cancelled" else "")


def _what_became(job: str, folder: RunFolder, jobs: list[str], listed: Job | None, ended: Job | None) -> str:
    """A row of TABLE."""
    if listed and listed.state != "COMPLETING":
        return "waiting" if listed.waiting else "active"
    with contextlib.suppress(OSError):
        os.listdir(folder.path)  # makes a network file system look again
    submission, attempt = folder.submission(), folder.last_attempt()
    began = attempt.get("slurm_job") == job
    failed = began and folder.failed()
    cancelled = submission.get("cancelled") == job
    if listed and not (failed or cancelled):  # a job that was requeued is COMPLETING too, and comes back
        return "active"
    held_elsewhere = folder.is_held() and folder.owner().get("job") not in jobs
    continued_elsewhere = not began and attempt.get("stamp", "") > submission.get("stamp", "")
    if held_elsewhere or continued_elsewhere:
        return "none"
    if failed:
        return "failed"
    return "cancelled" if cancelled or (ended and ended.state == "CANCELLED") else "vanished"


def _running(run: RunState, jobs: list[str], listed: Job | None) -> RunState:
    owner = run.folder.owner() if run.folder.is_held() or not listed else {}
    if listed and owner.get("job") != listed.id:  # it is starting or ending
        return replace(run, owner={"host": listed.nodes, "job": listed.id})
    # a job that was not submitted for this run is an interactive session
    job = owner["job"] if owner.get("job") in jobs else None
    return replace(run, job=job, owner=owner, progress=read_progress(run.folder.work) or {})


def failure(folder: RunFolder) -> str:
    """The type and the message of its last error."""
    recorded = folder.last_failure()
    return f"{recorded.get('type')}: {recorded.get('message')}"


def _vanished(folder: RunFolder, job: str, ended: Job | None) -> str:
    """A job that left the queue without a result and without an error."""
    how = f"{ended.state}, {ended.reason}, on {ended.nodes}" if ended else "no sacct record"
    what = "without reporting an error" if folder.last_attempt().get("slurm_job") == job else "before the run began"
    return ": ".join([f"job {job} ended {what} ({how})", *last_lines(log_files(folder, job), 1)])


def _with_blocked(states: dict[str, RunState]) -> dict[str, RunState]:
    """Runs whose parents failed never start, whatever SLURM calls it. Parents come before children."""
    for name, run in states.items():
        if run.state in ("done", "running") or run.folder.failed():
            continue
        try:
            parents = run.folder.spec().get("parents", {}).values()
        except UserError:
            continue
        for parent in (states[parent] for parent in parents if parent in states):
            if parent.state in ("failed", "blocked"):
                states[name] = replace(run, state="blocked", blocked_by=parent.blocked_by or parent.name)
    return states


def runs_of(record: dict[str, Any]) -> list[str]:
    """The runs of a grid's record, each once, parents before children."""
    return list(dict.fromkeys(run for row in record["rows"] for runs in row["runs"].values() for run in runs.values()))


def find_run(store: Store, word: str) -> RunFolder:
    """By name, or by a prefix of the name or of the hash."""
    names = [folder.name for folder in store.all_runs()]
    found = [n for n in names if n.startswith(word) or n.rpartition("-")[2].startswith(word)]
    if len(found) == 1:
        return store.run(found[0])
    if found:
        more = " ..." if len(found) > 8 else ""
        raise UserError(f"{store.runs}: '{word}' matches {len(found)} runs: {', '.join(found[:8])}{more}.")
    raise UserError(f"{store.runs}: no run '{word}'.{nearest(word, names)}")
