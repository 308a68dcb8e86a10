"""What a job on the cluster executes. It gets strings and numbers only: the results folder, a run's name, settings.

A signal only sets a flag. The training saves at the next step boundary on which the ranks agree; then rank 0 asks SLURM
for the job's state. A job that is still RUNNING is requeued and resumes under the same id, so that dependent jobs keep
waiting for it. Heavy imports come after the signal handlers.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from dataclasses import dataclass, replace
from typing import Any

from mimbench import env
from mimbench.errors import Interrupted, RunFailed
from mimbench.launch.queue import QueueUnavailable
from mimbench.runtime import Progress, Stop, log_to, quick_imports
from mimbench.slurm import queue
from mimbench.store.results import RunFolder, Store

HELD_SECONDS = 5.0  # before checking again a run that another live process holds
PATIENCE_SECONDS = 300.0  # after that such a job is requeued, to free its nodes


def report(root: str, grid: str, scale: str) -> None:
    """The last job of a submission."""
    from mimbench.report.build import build_report

    folder, _ = build_report(Store(root), grid, scale)
    print(folder)


@dataclass
class RunJob:
    """Executes one run from its folder."""

    root: str
    name: str
    runtime: dict[str, Any]  # settings of Runtime
    limits: dict[str, int]  # grace_seconds, max_requeues, max_stalled_requeues
    batch: str  # how it is made up, in words

    def __call__(self) -> None:
        stop = Stop()
        stop.listen()
        sys.path.append(os.getcwd())  # for parts named by a dotted path beside the config
        rank = int(os.environ.get("SLURM_PROCID", 0))
        store = Store(self.root)
        folder, grace = store.run(self.name), self.limits["grace_seconds"]
        log_to(folder.work / ("log.txt" if rank == 0 else f"log.{rank}.txt"))
        ended = threading.Event()
        try:
            if rank == 0:
                _check_limits(folder, self.limits)
                _requeue_before_the_limit(stop, ended, grace)
                if self.batch:
                    print(self.batch, flush=True)
            _execute(store, self.name, stop, self.runtime)
        except Interrupted:
            if rank == 0:
                _requeue(folder, grace)
            return
        finally:
            ended.set()
            stop.ignore()
        # The result is written: an error while Python and the GPU libraries shut down must not fail the job, since SLURM
        # would cancel its dependents.
        sys.stdout.flush()
        os._exit(0)

    def checkpoint(self) -> Any:
        """Called by submitit for a signal before our handlers: nothing has begun, submit the same again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _execute(store: Store, name: str, stop: Stop, options: dict[str, Any]) -> None:
    with quick_imports():
        from mimbench import registry
        from mimbench.run.execute import execute
        from mimbench.runtime import Runtime
        from mimbench.slurm.distributed import Ranks, process_group

    registry.load_plugins()
    ranks, work = Ranks.here(), store.run(name).work
    runtime = Runtime(device=ranks.device(), rank=ranks.rank, world=ranks.world, stop=stop, **options)
    if ranks.rank == 0:
        runtime = replace(runtime, progress=Progress(work))
    with process_group(ranks, work):
        begun = time.monotonic()
        while execute(store, name, runtime, is_dead=_is_dead) == "held":
            if runtime.from_rank_0(stop.requested or time.monotonic() - begun > PATIENCE_SECONDS):
                raise Interrupted("another live process holds this run")
            time.sleep(HELD_SECONDS)


def _is_dead(owner: dict[str, Any]) -> bool:
    """Whether the owner of a lease on another host has ended: an earlier start of this job, or a job that has ended."""
    job = owner.get("job")
    return bool(job) and (job == env.slurm_job() or not queue.may_be_running(str(job)))


def _requeue_before_the_limit(stop: Stop, ended: threading.Event, grace: float) -> None:
    """A run that cannot stop in time (a long evaluation, a slow step) is requeued and resumes from its last checkpoint."""

    def watch() -> None:
        while not stop.requested:
            if ended.wait(0.5):
                return
        if not ended.wait(max(1.0, 0.7 * grace)):
            print("no step boundary in time: requeued without a new checkpoint", flush=True)
            _requeue_if_running(0.25 * grace)

    threading.Thread(target=watch, daemon=True, name="mimbench-requeue").start()


def _requeue(folder: RunFolder, grace: float) -> None:
    """The run was saved and stopped: requeue the job, unless SLURM is ending it."""
    try:
        requeued = _requeue_if_running(0.5 * grace)
    except QueueUnavailable as error:
        failure = RunFailed(f"saved and stopped, but not requeued ({error}); resume with `mimbench retry`")
        attempt = folder.last_attempt()
        if attempt.get("slurm_job") == env.slurm_job():  # not that of another process, for which this job waited
            folder.fail(attempt["stamp"], failure)
        raise failure from error
    print("saved, stopped and requeued" if requeued else "saved and stopped; SLURM is ending this job", flush=True)


def _requeue_if_running(seconds: float) -> bool:
    """A job that is cancelled, preempted for good or requeued by others is no longer RUNNING: it is left to SLURM.

    Tried for so many seconds: when many jobs reach their limit together, the controller answers slowly. Requeuing ends
    what the job runs, the command that asks for it too: without its answer, a job that no longer runs was requeued by it.
    """
    job, end, asked = env.slurm_job(), time.monotonic() + seconds, False
    while True:
        try:
            if job is None or queue.state_of(job) != "RUNNING":
                return asked
            asked = True
            queue.requeue(job)
            return True
        except QueueUnavailable:
            if time.monotonic() > end:
                raise
            time.sleep(2)


def _check_limits(folder: RunFolder, limits: dict[str, int]) -> None:
    """Fail a run that was requeued too often, or several times without one more step.

    What counts are this job's starts of the run, not SLURM's restarts: it may have waited for another process.
    """
    starts = [attempt for attempt in folder.attempts() if attempt.get("slurm_job") == env.slurm_job()]
    if not starts or folder.settled():
        return
    reason = _stalled(folder, starts, limits["max_stalled_requeues"])
    if len(starts) > limits["max_requeues"]:
        reason = f"requeued {len(starts)} times; the profile's max_requeues is {limits['max_requeues']}"
    if reason:
        failure = RunFailed(reason)
        folder.fail(folder.begin_attempt({**env.facts(), "world": 0}), failure)
        raise failure


def _stalled(folder: RunFolder, starts: list[dict[str, Any]], most: int) -> str:
    if len(starts) < most:
        return ""
    from mimbench.run.execute import progress_found

    progress = progress_found(folder)
    if any(start.get("found") != progress for start in starts[-most:]):
        return ""
    return (
        f"requeued {most} times in a row without one more step (each began with {', '.join(progress) or 'nothing'}); "
        "the profile's time limit (hours) may be too short"
    )
