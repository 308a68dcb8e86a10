"""What squeue, sacct and scontrol answer. Without accounting, a job that left the queue is just gone.

The functions `queued` and `ended` are the engine's `mimbench.launch.queue.Queue`.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator

from mimbench.launch.queue import Job, QueueUnavailable

TITLE = "mimbench "  # the prefix of the names of our jobs
SECONDS = 30  # a busy controller answers late
CHUNK = 500  # job ids in one command


def present() -> bool:
    return shutil.which("squeue") is not None


def ask(*words: str) -> str:
    """The stdout of a SLURM command, or QueueUnavailable with its error."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS)
    except FileNotFoundError as error:
        raise QueueUnavailable(f"{words[0]} is not installed here") from error
    except subprocess.TimeoutExpired as error:
        raise QueueUnavailable(f"{words[0]} did not answer within {SECONDS} s") from error
    if done.returncode:
        raise QueueUnavailable(f"{words[0]}: {' '.join(done.stderr.split()) or f'exit code {done.returncode}'}")
    return done.stdout


def queued(ids: Iterable[str]) -> dict[str, Job]:
    """Those of these jobs that are in the queue: waiting, running or ending.

    Whole arrays are a short query. But if most tasks of an array have a dependency of their own, squeue leaves out one
    task (seen with 24 tasks in 22.05) unless it is named: missing tasks are queried by name.
    """
    wanted = set(ids)
    found = _named({array_of(job) for job in wanted})
    found |= _named(wanted - found.keys())
    # the number may belong to another job: on another cluster, or since the cluster was set up again
    return {name: job for name, job in found.items() if name in wanted and job.name.startswith(TITLE)}


def array_of(job: str) -> str:
    return job.partition("_")[0]


def _named(names: Iterable[str]) -> dict[str, Job]:
    found: dict[str, Job] = {}
    for chunk in _chunks(names):
        try:
            # a second id: squeue rejects a single id that it has forgotten, but skips it among several
            found |= _squeue(f"--jobs={','.join([*chunk, '1'])}")
        except QueueUnavailable as error:
            if "Invalid job id" not in str(error):
                raise
    return found


def _squeue(which: str) -> dict[str, Job]:
    lines = ask("squeue", "--noheader", "--array", which, "--format=%i|%T|%r|%N|%E|%j|%k").splitlines()
    return {job.id: job for job in (Job(*line.split("|", 6)) for line in lines)}


def _chunks(names: Iterable[str]) -> Iterator[list[str]]:
    ordered = sorted(names)
    for start in range(0, len(ordered), CHUNK):
        yield ordered[start : start + CHUNK]


def ended(ids: Iterable[str]) -> dict[str, Job]:
    """How jobs that left the queue ended, from sacct; empty without accounting."""
    found = {}
    for chunk in _chunks(ids):
        try:
            answer = ask("sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={','.join(chunk)}",
                         "--format=JobID,State,ExitCode,NodeList")  # fmt: skip
        except QueueUnavailable:
            return {}
        for line in answer.splitlines():
            name, state, code, nodes = line.split("|", 3)
            word = state.split()[0] if state else ""  # "CANCELLED by 1000"
            found[name] = Job(name, word, f"exit code {code}", nodes)
    return found


def mine(comment: str) -> list[Job]:
    """All tasks of this user in the queue that have this comment."""
    return [job for job in _squeue("--me").values() if job.comment == comment]


def state_of(job: str) -> str | None:
    """RUNNING, COMPLETING, ...; None if the controller has forgotten the job."""
    try:
        answer = ask("scontrol", "show", "job", "--oneliner", job)
    except QueueUnavailable as error:
        if "Invalid job id" in str(error):
            return None
        raise
    found = re.search(r"\bJobState=(\w+)", answer)
    return found[1] if found else None


def may_be_running(job: str) -> bool:
    """Whether a job can still be computing; yes if the cluster does not answer."""
    try:
        return state_of(job) in ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT")
    except QueueUnavailable:
        return True


def requeue(job: str) -> None:
    ask("scontrol", "requeue", job)


def cancel(ids: Iterable[str]) -> None:
    for chunk in _chunks(ids):
        ask("scancel", *chunk)


def release(array: str) -> None:
    ask("scontrol", "release", array)


def set_dependencies(conditions: dict[str, str]) -> set[str]:
    """Give each held task its own dependency, all in one process. Returns the tasks that have none afterwards.

    scontrol does not say which line an error belongs to, so the queue is asked afterwards. SLURM also drops a
    dependency that is already satisfied: whether it is, the caller knows.
    """
    if not conditions:
        return set()
    script = "".join(f"update JobId={job} Dependency={condition}\n" for job, condition in conditions.items())
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(["scontrol"], input=script, capture_output=True, text=True, timeout=SECONDS + len(conditions))
    left = queued(conditions)
    return {job for job in conditions if job not in left or left[job].dependency in ("", "(null)")}


def array_limit() -> int:
    """How many tasks one array may have."""
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", ask("scontrol", "show", "config"))
    return max(1, int(found[1]) - 1) if found else 1000
