"""How runs stand, from their folders and the cluster's queue: correct whoever submitted them, with and without accounting."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mimbench.errors import UserError, nearest
from mimbench.report.format import duration
from mimbench.slurm import queue
from mimbench.store.records import ELAPSED, RUN_NAME, read_record
from mimbench.store.results import RunFolder, Store, read_progress

STATES = ("done", "running", "queued", "failed", "blocked", "stopped", "planned")
TAIL = 15  # lines of a log that are shown
NOISE = ("srun: ", "slurmstepd-")  # the cluster's own last words, after those that tell why


@dataclass(frozen=True)
class Seen:
    """One run: its state, and why or where in a few words."""

    folder: RunFolder
    state: str
    detail: str = ""
    job: str | None = None  # that was submitted to carry it out
    alive: bool = False  # the job stands in the queue

    @property
    def name(self) -> str:
        return self.folder.name


def look(store: Store, names: Iterable[str]) -> tuple[dict[str, Seen], str]:
    """Every run as it stands, and a warning where the cluster could not be asked."""
    seen: dict[str, Seen] = {}
    sent: dict[str, list[str]] = {}  # run -> jobs that may be at it, the last submitted first; of what is not done
    for name in names:
        folder = store.run(name)
        jobs = [] if folder.settled() else _jobs_of(folder)
        seen[name] = _from_folder(folder, jobs)
        if jobs:
            sent[name] = jobs
    warning = ""
    if sent:
        try:
            alive = queue.queued(job for jobs in sent.values() for job in jobs)
        except queue.QueueSilent as silent:
            warning = f"The queue could not be asked ({silent}); what was submitted is shown as it last stood."
            seen |= {n: replace(seen[n], state="queued", detail=f"as job {j[0]}, when last heard of", job=j[0])
                     for n, j in sent.items() if seen[n].state in ("planned", "stopped")}  # fmt: skip
        else:
            chosen = {name: next((j for j in jobs if j in alive), jobs[0]) for name, jobs in sent.items()}
            gone = [job for job in chosen.values() if job not in alive]
            accounts = queue.ended(gone) if gone else {}
            for name, job in chosen.items():
                try:
                    seen[name] = _with_job(seen[name], job, alive.get(job), accounts.get(job))
                except UserError as error:  # a file that is broken hides no other run
                    seen[name] = Seen(seen[name].folder, "failed", str(error), job, job in alive)
    return _blocked(store, seen), warning


def _jobs_of(folder: RunFolder) -> list[str]:
    """The jobs it was submitted as, the last first; an older one may still hold its claim."""
    try:
        sent = folder.submissions()
    except UserError:
        return []
    jobs = (facts.get("job") or facts.get("cancelled") for facts in reversed(sent))
    return list(dict.fromkeys(str(job) for job in jobs if job))


def _from_folder(folder: RunFolder, jobs: list[str]) -> Seen:
    try:
        state = folder.state()
    except UserError as error:
        return Seen(folder, "failed", str(error))
    if state == "failed":
        return _failed(folder)
    if state == "running":
        owner = folder.claim_owner() or {}
        job = owner.get("job")
        where = f"job {job}" if job else f"pid {owner.get('pid')}"
        detail = f"on {owner.get('host')} ({where}){progress_words(folder)}"
        # a job that was not submitted for it is somebody's interactive session
        return Seen(folder, state, detail, job if job in jobs else None)
    return Seen(folder, state)


def _failed(folder: RunFolder, job: str | None = None) -> Seen:
    try:
        failure = folder.last_failure() or {}
    except UserError as error:
        failure = {"type": "unreadable", "message": str(error)}
    return Seen(folder, "failed", f"{failure.get('type')}: {failure.get('message')}", job)


def progress_words(folder: RunFolder) -> str:
    note = read_progress(folder.work)
    if not note or not isinstance(note.get("step"), int) or not isinstance(note.get("steps"), int):
        return ""
    rate = note.get("steps_per_second") or 0
    words = f", step {note['step']} of {note['steps']}"
    if rate:
        words += f", {rate:g}/s, {duration((note['steps'] - note['step']) / rate)} left"
    if note.get("gpu_memory_bytes"):
        words += f", {note['gpu_memory_bytes'] / 2**30:.1f} GiB of GPU memory"
    return words


def _with_job(seen: Seen, job: str, alive: queue.Job | None, ended: queue.Job | None) -> Seen:
    """What the queue knows better than the folder: who waits, and who is gone without a word."""
    if alive is not None and alive.state == "COMPLETING" and _is_over(seen.folder, job):
        alive = None
    if alive is not None and alive.waiting:
        return replace(seen, state="queued", detail=f"job {job}: {_reason(alive)}", job=job, alive=True)
    if alive is not None:
        if seen.state == "running" and seen.job == job:
            return replace(seen, alive=True)
        detail = f"on {alive.nodes} (job {job}), starting or ending"
        return replace(seen, state="running", detail=detail, job=job, alive=True)
    with contextlib.suppress(OSError):
        os.listdir(seen.folder.path)  # makes a network file system look again
    if seen.folder.done():  # perhaps since we looked first
        return Seen(seen.folder, "done")
    if seen.state == "running" and seen.job is None:
        return seen  # by a process outside the queue
    attempt, submission = seen.folder.last_attempt(), seen.folder.submission()
    began = attempt.get("slurm_job") == job
    if not began and attempt.get("stamp", "") > submission.get("stamp", ""):
        return seen  # somebody else went on with it since
    if began and seen.folder.failed():  # whatever a claim says that nobody could let go of
        return _failed(seen.folder, job)
    if submission.get("cancelled") == job or (ended is not None and ended.state == "CANCELLED"):
        return replace(seen, state="stopped" if attempt else "planned", detail=f"job {job} was cancelled", job=job)
    how = f"{ended.state}, {ended.reason}, on {ended.nodes}" if ended else "the accounting says nothing of it"
    what = "without a word" if began else "before it began"
    last = next(iter(log_tail(seen.folder, job, 1)), "")
    return replace(
        seen, state="failed", detail=f"job {job} ended {what} ({how})" + (f": {last}" if last else ""), job=job
    )


def _is_over(folder: RunFolder, job: str) -> bool:
    """Of a job that is ending: whether that is for good. One that was requeued looks the same, and comes back."""
    if folder.submission().get("cancelled") == job:
        return True
    return folder.failed() and folder.last_attempt().get("slurm_job") == job


def _reason(job: queue.Job) -> str:
    known = {
        "Dependency": "waits for its parents", "Resources": "waits for free resources",
        "Priority": "others are before it", "JobArrayTaskLimit": "as many run as the profile's throttle lets",
        "BeginTime": "requeued; starts again shortly", "JobHeldUser": "held by its user",
    }  # fmt: skip
    return known.get(job.reason, job.reason)


def _blocked(store: Store, seen: dict[str, Seen]) -> dict[str, Seen]:
    """Runs whose parents failed will never start: said of them, whatever SLURM called it."""
    for name, one in list(seen.items()):  # parents come before children in a grid's record, row by row
        if one.state in ("done", "running") or one.folder.failed():
            continue
        try:
            parents = store.run(name).spec().get("parents", {}).values()
        except UserError:
            continue
        for parent in parents:
            if parent in seen and seen[parent].state in ("failed", "blocked"):
                root = seen[parent].detail.removeprefix("by ") if seen[parent].state == "blocked" else parent
                seen[name] = replace(one, state="blocked", detail=f"by {root}")
    return seen


def log_tail(folder: RunFolder, job: str | None, lines: int) -> list[str]:
    """The last lines of a run's log; of a job that never reached it, those of the job's own. Without the cluster's noise."""
    for path in log_files(folder, job):
        try:
            text = path.read_text(encoding="utf-8", errors="replace").rstrip()
        except OSError:
            continue
        if kept := [line for line in text.splitlines() if not line.startswith(NOISE)]:
            return kept[-lines:]
    return []


def log_files(folder: RunFolder, job: str | None) -> list[Path]:
    """The run's own log, those of its other ranks, and what the job said outside of them; a job that never began comes first."""
    paths = sorted(folder.work.glob("log*.txt"), key=lambda path: (path.name != "log.txt", path.name))
    if job:
        said = said_by(job, folder.path.parent.parent)
        began = any(attempt.get("slurm_job") == job for attempt in folder.attempts())
        paths = [*paths, *said] if began else [*said, *paths]
    return [path for path in paths if path.exists() and path.stat().st_size]


def said_by(job: str, results: Path) -> list[Path]:
    """What a job said outside of its run's log, as submitit names the files; errors first."""
    own = results / "slurm" / job
    return [own / f"{job}_0_log.err", own / f"{job}_0_log.out"]


def runs_of(record: dict[str, Any]) -> list[str]:
    """The runs of a grid's record, each once, parents before children."""
    return list(dict.fromkeys(run for row in record["rows"] for runs in row["runs"].values() for run in runs.values()))


def find_run(store: Store, word: str) -> RunFolder:
    """By its name, or the beginning of it or of its hash."""
    names = [folder.name for folder in store.all_runs()]
    if RUN_NAME.match(word) and word in names:
        return store.run(word)
    found = [n for n in names if n.startswith(word) or n.rpartition("-")[2].startswith(word)]
    if len(found) == 1:
        return store.run(found[0])
    if found:
        raise UserError(
            f"{store.runs}: '{word}' may be any of {', '.join(found[:8])}{' ...' if len(found) > 8 else ''}."
        )
    raise UserError(f"{store.runs}: no run '{word}'.{nearest(word, names)}")


def seconds_of(folder: RunFolder) -> float:
    """Process-seconds a run has cost so far."""
    try:
        cost = folder.cost()
        if cost is not None:
            return float(cost.get("seconds") or 0) * int(cost.get("world") or 1)
        elapsed = read_record(folder.work / "elapsed.json", ELAPSED)
        return float(elapsed["seconds"]) * int(folder.last_attempt().get("world") or 1)
    except UserError:
        return 0.0
