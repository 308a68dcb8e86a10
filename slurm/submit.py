"""A plan's whole graph -> SLURM: arrays by kind of run, each task with a dependency on its own parents only.

An array is submitted held; every task is noted in its run's folder and gets its dependency; then the array is released.
So an array's max_parallel counts over all rows, and a row that fails delays no other.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from mimbench.errors import UserError
from mimbench.kinds import KINDS
from mimbench.launch.queue import QueueUnavailable
from mimbench.launch.state import run_states
from mimbench.plan.graph import Planned, wanted
from mimbench.slurm import queue
from mimbench.slurm.arrays import arrays
from mimbench.slurm.job import RunJob, report
from mimbench.slurm.profile import Profile, Request
from mimbench.slurm.sbatch import comment_of, executor_of, script
from mimbench.store.files import map_threads
from mimbench.store.results import Store

LOCK_SECONDS = 600  # to wait for another submission into the same results
HELD = {"hold": True}
GridName = tuple[str, str]  # name, scale
Runs = dict[str, Planned]


def submit(runs: Runs, grid: GridName, store: Store, profile: Profile, settings: dict[str, Any]) -> Submission:
    """Submit the runs that are neither done nor queued, and return: no process has to stay alive."""
    check(runs, profile)
    if not queue.present():
        raise UserError("--on slurm: sbatch and squeue are not installed here.")
    submission = Submission(grid, store, profile, settings)
    with store.lock("submitting", LOCK_SECONDS):
        left = submission.not_queued(wanted(runs, store))
        for array in arrays(left, queue.array_limit()):
            submission.submit_array(array)
        if submission.arrays:
            submission.submit_report()
    return submission


def check(runs: Runs, profile: Profile) -> None:
    """Whether the profile suits the runs, before anything is queued."""
    for run in runs.values():
        request, batch = profile.of(run.kind), KINDS[run.kind].batch(run.spec)
        if batch and batch % request.world:
            raise UserError(
                f"profile {profile.name}: the batch of {batch} of {run.name} cannot be divided by "
                f"{request.nodes} nodes x {request.ranks_per_node} ranks."
            )


def accumulation(spec: dict[str, Any], request: Request, micro_batch: int | None = None) -> str:
    """How ranks and micro-batches make up the batch of a step, in words; `micro_batch` from the command line."""
    batch, most = KINDS[spec["kind"]].batch(spec), micro_batch or request.micro_batch
    if not batch or (request.world == 1 and not most):
        return ""
    share = batch // request.world
    micro = min(most or share, share)
    return f"batch {batch} = {request.world} ranks x {-(-share // micro)} micro-batches of {micro}"


def scripts(runs: Runs, grid: GridName, store: Store, profile: Profile) -> Iterator[tuple[list[Planned], str]]:
    """The arrays and their sbatch scripts as they would be submitted now, without a cluster."""
    for array in arrays(wanted(runs, store), 1000):
        kind = array[0].kind
        yield array, script(store, profile.of(kind), _title(grid, kind), HELD, len(array))


def _title(grid: GridName, kind: str) -> str:
    return f"{queue.TITLE}{'.'.join(grid)} {kind}"


@dataclass
class Submission:
    """One call of `submit`, and what became of the runs."""

    grid: GridName
    store: Store
    profile: Profile
    settings: dict[str, Any]  # of the runtime, as given on the command line
    arrays: dict[str, list[Planned]] = field(default_factory=dict)  # job id -> its runs
    jobs: dict[str, str] = field(default_factory=dict)  # run -> job of this submission
    queued: dict[str, str] = field(default_factory=dict)  # run -> job of an earlier submission
    elsewhere: set[str] = field(default_factory=set)  # held by a live process outside the queue
    refused: dict[str, str] = field(default_factory=dict)  # run -> why

    def not_queued(self, runs: Runs) -> Runs:
        """The runs to submit: not those that are queued or running, nor those whose parents run outside the queue."""
        self._cancel_unreleased()
        states, warning = run_states(self.store, runs, queue)
        if warning:
            raise UserError(warning)
        queue.cancel(run.job for run in states.values() if run.in_queue and run.job and run.state == "blocked")
        left = {}
        for name, run in states.items():
            outside = [parent for parent in runs[name].parents if parent in self.elsewhere]
            if run.in_queue and run.job and run.state != "blocked":
                self.queued[name] = run.job
            elif run.state == "running":
                self.elsewhere.add(name)
            elif outside:
                self.refused[name] = f"{outside[0]} is running outside the queue; submit again when it is done"
            else:
                left[name] = runs[name]
        return left

    def _cancel_unreleased(self) -> None:
        """Held jobs of a submission that was killed before it released them. Jobs held after that are the user's."""
        held = {queue.array_of(job.id) for job in queue.mine(comment_of(self.store)) if job.reason == "JobHeldUser"}
        queue.cancel(array for array in held if not self.store.was_released(array))

    def submit_array(self, runs: list[Planned]) -> None:
        """Those whose parents could be submitted."""
        for run in runs:
            if lost := [parent for parent in run.parents if parent in self.refused]:
                self.refused[run.name] = f"its parent {lost[0]} could not be submitted"
        runs = [run for run in runs if run.name not in self.refused]
        jobs = self._submit_held(runs) if runs else {}
        if not jobs:
            return
        self._note("job", jobs)
        array = queue.array_of(next(iter(jobs.values())))
        try:
            jobs = self._set_dependencies(runs, jobs)
            queue.release(array)
        except QueueUnavailable as error:  # the next submission cancels them and submits them again
            self._refuse(runs, f"held and not released: {error}")
            return
        self.store.note_released(array)
        self.jobs |= jobs
        if jobs:
            self.arrays[array] = [run for run in runs if run.name in jobs]

    def _refuse(self, runs: list[Planned], reason: str) -> None:
        self.refused |= dict.fromkeys((run.name for run in runs), reason)

    def _submit_held(self, runs: list[Planned]) -> dict[str, str]:
        """Run -> job; empty if sbatch refused the array: no such partition, a full queue, a limit of the account."""
        request = self.profile.of(runs[0].kind)
        run_jobs = [self._run_job(run, request) for run in runs]
        executor = executor_of(self.store, request, _title(self.grid, runs[0].kind), HELD)
        try:
            with executor.batch():
                jobs = [executor.submit(job) for job in run_jobs]
        except Exception as error:
            self._refuse(runs, f"sbatch: {' '.join(str(error).split())}")
            return {}
        return {run.name: str(job.job_id) for run, job in zip(runs, jobs, strict=True)}

    def _run_job(self, run: Planned, request: Request) -> RunJob:
        """The command line overrides the profile."""
        runtime = {
            "workers": request.loader_workers, "micro_batch": request.micro_batch,
            "activation_checkpointing": request.activation_checkpointing,
            "checkpoint_seconds": request.checkpoint_seconds, **self.settings,
        }  # fmt: skip
        limits = {key: getattr(request, key) for key in ("grace_seconds", "max_requeues", "max_stalled_requeues")}
        batch = accumulation(run.spec, request, runtime["micro_batch"])
        return RunJob(str(self.store.root.resolve()), run.name, runtime, limits, batch)

    def _note(self, key: str, jobs: dict[str, str]) -> None:
        facts = {"profile": self.profile.given, "grid": ".".join(self.grid)}
        map_threads(lambda item: self.store.run(item[0]).note_submission({key: item[1], **facts}), jobs.items())

    def _set_dependencies(self, runs: list[Planned], jobs: dict[str, str]) -> dict[str, str]:
        """The jobs that wait for their parents, or whose parents are done; the others are cancelled."""
        known = self.queued | self.jobs
        parents = {run.name: [known[parent] for parent in run.parents if parent in known] for run in runs}
        unset = queue.set_dependencies({jobs[name]: f"afterok:{':'.join(ids)}" for name, ids in parents.items() if ids})
        free = [run for run in runs if jobs[run.name] in unset]
        lost = [run for run in free if not all(self.store.run(parent).settled() for parent in run.parents)]
        cancelled = {run.name: jobs[run.name] for run in lost}
        queue.cancel(cancelled.values())
        self._note("cancelled", cancelled)
        self._refuse(lost, "SLURM rejected the dependency on its parent's job, which may just have ended")
        return {name: job for name, job in jobs.items() if name not in cancelled}

    def submit_report(self) -> None:
        """A last small job that writes the report, also if runs failed."""
        after = {"dependency": f"afterany:{':'.join(self.arrays)}"}
        executor = executor_of(self.store, self.profile.of("knn"), _title(self.grid, "report"), after)
        with contextlib.suppress(Exception):  # the runs are queued; `mimbench report` writes it as well
            executor.submit(report, str(self.store.root.resolve()), *self.grid)
