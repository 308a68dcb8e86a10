"""What the cluster says of jobs. Works without accounting; then a job that left the queue is simply gone."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

from mimbench.errors import RunFailed

PENDING = ("PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "SUSPENDED", "STOPPED")
TITLE = "mimbench "  # how the name of every job of ours begins
SECONDS = 30  # a controller that is busy answers late


class QueueSilent(RunFailed):
    """The cluster could not be asked."""


@dataclass(frozen=True)
class Job:
    """One task, as squeue or sacct tells of it."""

    id: str  # "17" or, of an array, "17_3"
    state: str
    reason: str
    nodes: str

    @property
    def waiting(self) -> bool:
        return self.state in PENDING


def present() -> bool:
    return shutil.which("squeue") is not None


def ask(*words: str, text: str | None = None) -> str:
    """One SLURM command's answer, or QueueSilent with what it said."""
    try:
        done = subprocess.run(words, input=text, capture_output=True, text=True, timeout=SECONDS)
    except FileNotFoundError as error:
        raise QueueSilent(f"{words[0]} is not installed here") from error
    except subprocess.TimeoutExpired as error:
        raise QueueSilent(f"{words[0]} did not answer within {SECONDS} s") from error
    if done.returncode:
        raise QueueSilent(f"{words[0]}: {' '.join(done.stderr.split()) or f'exit code {done.returncode}'}")
    return done.stdout


def queued(ids: Iterable[str]) -> dict[str, Job]:
    """Of these jobs, those that still stand in the queue: waiting, running, or ending."""
    return {name: Job(name, *facts) for name, facts in _listed(ids, "%T|%r|%N").items()}


def _listed(ids: Iterable[str], columns: str) -> dict[str, list[str]]:
    """squeue's columns of those of these jobs that it knows.

    Asked by whole arrays, which is short. But of an array of which most tasks were given a dependency of their own squeue
    leaves one task out (seen with 24 tasks in 22.05), unless it is named: so what is missing is.
    """
    wanted = set(ids)
    found = _squeue({array_of(job) for job in wanted}, columns)
    found |= _squeue(wanted - found.keys(), columns)
    # a number may be another cluster's, or that of a cluster that was set up anew: a stranger's job is none of ours
    return {job: facts for job, (title, *facts) in found.items() if job in wanted and title.startswith(TITLE)}


def array_of(job: str) -> str:
    return job.partition("_")[0]


def _squeue(names: Iterable[str], columns: str) -> dict[str, list[str]]:
    found, ordered = {}, sorted(names)
    for start in range(0, len(ordered), 500):
        # a second id, as squeue refuses a single one that it has forgotten and passes over one of several
        some = ",".join([*ordered[start : start + 500], "1"])
        try:
            answer = ask("squeue", "--noheader", "--array", f"--jobs={some}", f"--format=%i|%j|{columns}")
        except QueueSilent as error:
            if "Invalid job id" in str(error):
                continue
            raise
        for line in answer.splitlines():
            job, *facts = line.split("|", columns.count("|") + 2)
            found[job] = facts
    return found


def ended(ids: Iterable[str]) -> dict[str, Job]:
    """How jobs that left the queue ended, from the accounting; nothing where there is none."""
    wanted = sorted(ids)
    found: dict[str, Job] = {}
    for start in range(0, len(wanted), 500):
        words = ("sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={','.join(wanted[start : start + 500])}",
                 "--format=JobID,State,ExitCode,NodeList")  # fmt: skip
        try:
            answer = ask(*words)
        except QueueSilent:
            return {}
        for line in answer.splitlines():
            name, state, code, nodes = line.split("|", 3)
            word = state.split()[0] if state else ""  # "CANCELLED by 1000"
            found[name] = Job(name, word, f"exit code {code}", nodes)
    return found


def mine(comment: str) -> dict[str, Job]:
    """All tasks of this user's in the queue that carry this comment."""
    answer = ask("squeue", "--noheader", "--array", "--me", "--format=%i|%T|%r|%N|%k")
    found = {}
    for line in answer.splitlines():
        name, state, reason, nodes, said = line.split("|", 4)
        if said == comment:
            found[name] = Job(name, state, reason, nodes)
    return found


def state_of(job: str) -> str | None:
    """RUNNING, COMPLETING, ...; None of a job that the controller has forgotten."""
    try:
        answer = ask("scontrol", "show", "job", "--oneliner", job)
    except QueueSilent as error:
        if "Invalid job id" in str(error):
            return None
        raise
    found = re.search(r"\bJobState=(\w+)", answer)
    return found[1] if found else None


def runs(job: str) -> bool:
    """Whether a job can still be computing. Where the cluster cannot be asked: it may."""
    try:
        return state_of(job) in ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT")
    except QueueSilent:
        return True


def requeue(job: str) -> None:
    ask("scontrol", "requeue", job)


def cancel(ids: Iterable[str]) -> None:
    wanted = sorted(ids)
    for start in range(0, len(wanted), 500):
        ask("scancel", *wanted[start : start + 500])


def release(array: str) -> None:
    ask("scontrol", "release", array)


def set_dependencies(conditions: dict[str, str]) -> set[str]:
    """Give each held task its own condition, all in one process. Returns the tasks that carry none afterwards.

    scontrol's messages do not say which line they are of, so the queue is asked what came of it. A condition that is
    met already is dropped by SLURM as well: whether that is so the caller knows.
    """
    if not conditions:
        return set()
    script = "".join(f"update JobId={job} Dependency={condition}\n" for job, condition in conditions.items())
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        words = {"input": script, "capture_output": True, "text": True}
        subprocess.run(["scontrol"], timeout=SECONDS + len(conditions), check=False, **words)  # type: ignore[call-overload]
    carried = _listed(conditions, "%E")
    return {job for job in conditions if carried.get(job, [""]) in ([""], ["(null)"])}


def limit_of_arrays() -> int:
    """How many tasks one array may have here."""
    try:
        found = re.search(r"MaxArraySize\s*=\s*(\d+)", ask("scontrol", "show", "config"))
    except QueueSilent:
        found = None
    return max(1, int(found[1]) - 1) if found else 1000
