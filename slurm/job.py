"""What a job on the cluster carries out. It is sent strings alone: where the results are, and a run's name.

A signal only sets a flag. The training saves at the next step boundary on which the ranks agree; then rank 0 asks the
cluster what the signal meant: a job that still counts as running is requeued and goes on from there, under the same id,
so that what waits for it goes on waiting. Heavy imports come after the signal handlers.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Any

from mimbench.errors import Interrupted, RunFailed
from mimbench.importing import importing
from mimbench.progress import Progress, log_to
from mimbench.runtime import Stop
from mimbench.slurm import queue
from mimbench.store.lease import slurm_job
from mimbench.store.results import RunFolder, Store

TAKEN_SECONDS = 5.0  # between looks at a run that somebody else is at
PATIENCE_SECONDS = 300.0  # before such a job gives its nodes back and is requeued, to look again later


class Report:
    """The last job of a submission."""

    def __init__(self, root: str, grid: str, scale: str) -> None:
        self.root, self.grid, self.scale = root, grid, scale

    def __call__(self) -> None:
        from mimbench.report.build import build_report

        print(build_report(Store(self.root), self.grid, self.scale))


class Carry:
    """One run, from its folder."""

    def __init__(self, root: str, name: str, options: dict[str, Any]) -> None:
        self.root, self.name, self.options = root, name, options

    def __call__(self) -> None:
        stop = Stop()
        stop.listen()
        sys.path.append(os.getcwd())  # for parts named by a dotted path beside the config
        rank = int(os.environ.get("SLURM_PROCID", 0))
        store = Store(self.root)
        folder, limits = store.run(self.name), self.options["limits"]
        log_to(folder.work / ("log.txt" if rank == 0 else f"log.{rank}.txt"))
        ended = threading.Event()
        try:
            if rank == 0:
                _refuse_endless(folder, limits)
                _requeue_before_the_end(stop, ended, limits["grace"])
                if self.options["says"]:
                    print(self.options["says"], flush=True)
            _carry_out(store, self.name, stop, self.options["place"])
        except Interrupted:
            if rank == 0:
                _give_way(folder, limits["grace"])
            return
        finally:
            ended.set()
            stop.ignore()
        # The result is there: nothing that may still go wrong while Python and the GPU's libraries are taken down may make
        # a failure of it, for SLURM would cancel the runs that wait for this one.
        sys.stdout.flush()
        os._exit(0)

    def checkpoint(self) -> Any:
        """For a signal between submitit's first steps and ours: nothing was begun, the same again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _carry_out(store: Store, name: str, stop: Stop, options: dict[str, Any]) -> None:
    from dataclasses import replace

    with importing():
        from mimbench import registry
        from mimbench.pretrain.fit import Place
        from mimbench.run.execute import execute
        from mimbench.slurm.distributed import Ranks, process_group

    registry.load_plugins()
    ranks, work = Ranks.here(), store.run(name).work
    place = Place(device=ranks.device(), rank=ranks.rank, world=ranks.world, stop=stop, **options)
    if ranks.rank == 0:
        place = replace(place, progress=Progress(work))
    with process_group(ranks, work):
        begun = time.monotonic()
        while execute(store, name, place, dead=_is_gone) == "taken":
            if place.of_first_rank(stop.asked or time.monotonic() - begun > PATIENCE_SECONDS):
                raise Interrupted("another process is at this run")
            time.sleep(TAKEN_SECONDS)


def _is_gone(owner: dict[str, Any]) -> bool:
    """Whether the holder of a claim on another host has ended: it was this job before it was requeued, or its job is over."""
    job = owner.get("job")
    return bool(job) and (job == slurm_job() or not queue.runs(str(job)))


# being asked to go


def _requeue_before_the_end(stop: Stop, ended: threading.Event, grace: float) -> None:
    """What cannot stop in time (a long evaluation, a slow step) is requeued as it is, and goes on from what it saved."""

    def watch() -> None:
        while not stop.asked:
            if ended.wait(0.5):
                return
        if not ended.wait(max(1.0, 0.7 * grace)):
            print("no step boundary in time: requeued as it is", flush=True)
            _requeue_if_running(0.25 * grace)

    threading.Thread(target=watch, daemon=True, name="mimbench-last-moment").start()


def _give_way(folder: RunFolder, grace: float) -> None:
    """Saved and stopped. Requeue, unless the cluster is ending the job anyway."""
    try:
        requeued = _requeue_if_running(0.5 * grace)
    except queue.QueueSilent as error:
        failure = RunFailed(
            f"stopped in order, but could not be requeued ({error}); `mimbench retry` goes on from there"
        )
        attempt = folder.last_attempt()
        if attempt.get("slurm_job") == slurm_job():  # not that of another process, for which this job has waited
            folder.fail(attempt["stamp"], failure)
        raise failure from error
    print("stopped in order and requeued" if requeued else "stopped in order; the cluster ends this job", flush=True)


def _requeue_if_running(seconds: float) -> bool:
    """A job that is cancelled, preempted for good or requeued by others is no longer RUNNING: leave it to the cluster.

    Asked again for so many seconds: where many jobs reach their limit together the controller is slow to answer.
    """
    job, end = slurm_job(), time.monotonic() + seconds
    while True:
        try:
            if job is None or queue.state_of(job) != "RUNNING":
                return False
            queue.requeue(job)
            return True
        except queue.QueueSilent:
            if time.monotonic() > end:
                raise
            time.sleep(2)


def _refuse_endless(folder: RunFolder, limits: dict[str, Any]) -> None:
    """A run that is requeued again and again, or never gets a step further, is failed with that reason.

    What counts are this job's starts of the run, not SLURM's restarts: it may have waited for another process at it.
    """
    starts = [a for a in folder.attempts() if a.get("slurm_job") == slurm_job()]
    if not starts or folder.settled():
        return
    reason = ""
    if len(starts) > limits["max_requeues"]:
        reason = f"requeued {len(starts)} times; the profile's max_requeues is {limits['max_requeues']}"
    else:
        alike = starts[-limits["fruitless"] :]
        if len(alike) == limits["fruitless"] and len({tuple(a.get("found", ())) for a in alike}) == 1:
            from mimbench.run.execute import furthest

            if furthest(folder) == alike[-1].get("found"):
                reason = (f"requeued {limits['fruitless']} times in a row without getting a step further (each began with "
                          f"{', '.join(alike[-1]['found']) or 'nothing done'}); its time limit may be too short")  # fmt: skip
    if reason:
        from mimbench import env

        failure = RunFailed(reason)
        folder.fail(folder.begin_attempt({**env.facts(), "world": 0}), failure)
        raise failure
