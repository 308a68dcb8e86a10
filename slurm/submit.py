"""A plan's whole graph -> SLURM: arrays by kind of run, each task waiting for its own parents alone.

An array is submitted held; every task is noted in its run's folder and given its own dependency, and the array is
released. So the throttle of an array counts over all rows, and a row that fails holds up no other.
"""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from mimbench.errors import UserError
from mimbench.launch import local as launch
from mimbench.launch.state import look
from mimbench.plan.graph import Planned
from mimbench.slurm import queue
from mimbench.slurm.job import Carry, Report
from mimbench.slurm.profile import Profile, Request
from mimbench.store.files import side_by_side
from mimbench.store.results import Store

LOCK_SECONDS = 600  # another submission into the same results is waited for so long


@dataclass
class Submitted:
    """What became of the runs of a plan."""

    arrays: list[tuple[str, str, int]] = field(default_factory=list)  # job id, kind, tasks
    jobs: dict[str, str] = field(default_factory=dict)  # run -> job
    queued: dict[str, str] = field(default_factory=dict)  # run -> job, from before
    elsewhere: set[str] = field(default_factory=set)  # a process on some machine is at it
    refused: dict[str, str] = field(default_factory=dict)  # run -> why
    report: str | None = None


@dataclass(frozen=True)
class Group:
    """Runs that one array carries out."""

    kind: str
    runs: tuple[Planned, ...]


def submit(
    runs: dict[str, Planned], grid: tuple[str, str], store: Store, profile: Profile, options: dict[str, Any]
) -> Submitted:
    """Submit what is neither done nor queued of the runs of a grid (name, scale), then return: nothing need stay alive."""
    check(runs, profile)
    if not queue.present():
        raise UserError("--on slurm: sbatch and squeue are not installed here.")
    with store.lock("submitting", LOCK_SECONDS):
        outcome = Submitted()
        left = launch.wanted(runs, store)
        _sort_out(left, store, outcome)
        for group in groups(left, queue.limit_of_arrays()):
            _submit_group(group, grid, store, profile, options, outcome)
        if outcome.jobs:
            outcome.report = _submit_report(grid, store, profile, outcome)
    return outcome


def check(runs: dict[str, Planned], profile: Profile) -> None:
    """What the profile asks for must suit the runs, and that is said before anything is queued."""
    for run in runs.values():
        request = profile.of(run.kind)
        batch = batch_of(run.spec)
        if batch and batch % request.world:
            raise UserError(
                f"profile {profile.name}: {request.nodes} nodes x {request.ranks_a_node} ranks cannot share {run.kind}'s batch "
                f"of {batch} equally (run {run.name})."
            )


def batch_of(spec: dict[str, Any]) -> int | None:
    """Images of one optimiser step, which never depends on the number of ranks."""
    if spec["kind"] == "tokenizer":
        return int(spec["training"]["batch"])
    if spec["kind"] == "pretrain":
        return int(spec["recipe"]["schedule"]["batch"])
    return int(spec["protocol"]["settings"].get("batch") or 0) or None


def accumulation(spec: dict[str, Any], request: Request, micro_batch: int | None = None) -> str:
    """How the batch of a step is put together, in words; `micro_batch` as the command line has it."""
    batch, most = batch_of(spec), micro_batch or request.micro_batch
    if not batch or (request.world == 1 and not most):
        return ""
    share = batch // request.world
    micro = min(most or share, share)
    return f"batch {batch} = {request.world} ranks x {-(-share // micro)} micro-batches of {micro}"


def groups(runs: dict[str, Planned], most: int) -> Iterator[Group]:
    """Arrays in the order they can be submitted: the runs of one kind, parents' kinds before children's.

    A kind that descends from itself (a pre-training that goes on from another) makes an array a generation.
    """
    depth: dict[str, int] = {}
    lineage: dict[str, Counter[str]] = {}  # how many runs of each kind a run descends from, along its longest line
    for name, run in runs.items():  # parents come first in a plan
        parents = [p for p in run.parents if p in runs]
        depth[name] = 1 + max((depth[p] for p in parents), default=-1)
        lineage[name] = Counter()
        for parent in parents:
            lineage[name] |= lineage[parent] + Counter([runs[parent].kind])
    group_of = {name: (run.kind, lineage[name][run.kind]) for name, run in runs.items()}
    order: TopologicalSorter[Any] = TopologicalSorter({group: () for group in group_of.values()})
    for name, run in runs.items():
        order.add(group_of[name], *(group_of[p] for p in run.parents if p in runs))
    try:
        ordered = list(order.static_order())
    except CycleError:  # two kinds that descend from each other in different rows: by depth alone
        group_of = {name: (run.kind, depth[name]) for name, run in runs.items()}
        ordered = sorted(set(group_of.values()), key=lambda group: group[1])
    for group in ordered:
        members = [run for name, run in runs.items() if group_of[name] == group]
        for start in range(0, len(members), most):
            yield Group(group[0], tuple(members[start : start + most]))


def _sort_out(left: dict[str, Planned], store: Store, outcome: Submitted) -> None:
    """Take out of `left` what is queued already or done elsewhere, and what waits for the latter."""
    _cancel_orphans(store)
    seen, warning = look(store, left)
    if warning:
        raise UserError(warning)
    queue.cancel([one.job for one in seen.values() if one.alive and one.job and one.state == "blocked"])
    for name, one in seen.items():
        if one.alive and one.job and one.state != "blocked":
            outcome.queued[name] = one.job
        elif one.state == "running":
            outcome.elsewhere.add(name)
        else:
            waits = [p for p in left[name].parents if p in outcome.elsewhere]
            if not waits:
                continue
            outcome.refused[name] = f"{waits[0]} is being done by a process outside the queue; submit again afterwards"
        del left[name]


def _cancel_orphans(store: Store) -> None:
    """Jobs of a submission that was killed between holding and releasing them: nobody would ever release them."""
    mine = queue.mine(_comment(store)).items()
    held = {queue.array_of(name) for name, job in mine if job.reason == "JobHeldUser"}
    # those that were released once are held by their user, for reasons of his own
    queue.cancel(array for array in held if not store.was_released(array))


def _submit_group(
    group: Group, grid: tuple[str, str], store: Store, profile: Profile, options: dict[str, Any], outcome: Submitted
) -> None:
    """One array: held, noted in the runs' folders, told what to wait for, released."""
    runs = []
    for run in group.runs:
        lost = [p for p in run.parents if p in outcome.refused]
        if lost:
            outcome.refused[run.name] = f"its parent {lost[0]} could not be submitted"
        else:
            runs.append(run)
    if not runs:
        return
    request = profile.of(group.kind)
    conditions = {run.name: _condition(run, outcome) for run in runs}
    carriers = [Carry(str(store.root.resolve()), run.name, job_options(run.spec, request, options)) for run in runs]
    executor = executor_of(store, request, _title(grid, group.kind), {"hold": True})
    try:
        with executor.batch():
            jobs = [executor.submit(carrier) for carrier in carriers]
    except Exception as error:  # what sbatch said: no such partition, a full queue, a limit of the account
        words = " ".join(str(error).split())
        outcome.refused.update(dict.fromkeys([run.name for run in runs], f"sbatch: {words}"))
        return
    ids = {run.name: job.job_id for run, job in zip(runs, jobs, strict=True)}
    about = {"profile": profile.given, "grid": ".".join(grid)}
    side_by_side(lambda item: store.run(item[0]).note_submission({"job": item[1], **about}), ids.items())
    try:
        unset = queue.set_dependencies({ids[name]: condition for name, condition in conditions.items() if condition})
        for run in runs:
            if ids[run.name] in unset and not all(store.run(p).settled() for p in run.parents):
                job = ids.pop(run.name)
                queue.cancel([job])
                store.run(run.name).note_submission({"cancelled": job, **about})
                outcome.refused[run.name] = "SLURM took no dependency on its parent's job, which may just have ended"
        array = jobs[0].job_id.partition("_")[0]
        queue.release(array)
        store.note_released(array)
    except queue.QueueSilent as silent:  # they stay held; the next submission takes them out and starts afresh
        outcome.refused.update(dict.fromkeys([run.name for run in runs], f"held and not released: {silent}"))
        return
    outcome.jobs.update(ids)
    if ids:
        outcome.arrays.append((array, group.kind, len(ids)))


def _condition(run: Planned, outcome: Submitted) -> str:
    jobs = [job for p in run.parents if (job := outcome.jobs.get(p) or outcome.queued.get(p))]
    return "afterok:" + ":".join(jobs) if jobs else ""


def _title(grid: tuple[str, str], kind: str) -> str:
    return f"{queue.TITLE}{'.'.join(grid)} {kind}"


def _submit_report(grid: tuple[str, str], store: Store, profile: Profile, outcome: Submitted) -> str | None:
    """A last small job that writes the report, whatever became of the others."""
    request = profile.of("knn")
    after = ":".join(array for array, _, _ in outcome.arrays)
    executor = executor_of(store, request, _title(grid, "report"), {"dependency": f"afterany:{after}"})
    try:
        return executor.submit(Report(str(store.root.resolve()), *grid)).job_id
    except Exception:  # the runs are queued; `mimbench report` writes it as well
        return None


# what submitit is told


def job_options(spec: dict[str, Any], request: Request, options: dict[str, Any]) -> dict[str, Any]:
    """What a job needs besides its run's path; strings and numbers. The command line's word counts before the profile's."""
    own = {"workers": request.loader_workers, "micro_batch": request.micro_batch, "recompute": request.recompute,
           "checkpoint_seconds": request.checkpoint_seconds, **{k: v for k, v in options.items() if v is not None}}  # fmt: skip
    limits = {"grace": request.grace_seconds, "max_requeues": request.max_requeues,
              "fruitless": request.fruitless}  # fmt: skip
    return {"place": own, "limits": limits, "says": accumulation(spec, request, own["micro_batch"])}


def _comment(store: Store) -> str:
    """How jobs of this results folder know one another."""
    return f"mimbench:{store.root.resolve()}"


def parameters(store: Store, request: Request, name: str, more: dict[str, Any] | None = None) -> dict[str, Any]:
    """The arguments of submitit's own script writer; `more` goes to sbatch as it is."""
    extra = {"requeue": True, "kill-on-invalid-dep": "yes", **request.extra, **(more or {})}
    asked = {
        "job_name": name, "partition": request.partition, "account": request.account, "qos": request.qos,
        "nodes": request.nodes, "ntasks_per_node": request.ranks_a_node, "cpus_per_task": request.cpus,
        "gpus_per_node": request.gpus or None, "mem": f"{round(request.memory_gb * 1024)}M" if request.memory_gb else None,
        "time": max(1, round(request.hours * 60)), "signal_delay_s": request.grace_seconds,
        "array_parallelism": request.throttle or 10_000, "comment": _comment(store), "setup": list(request.setup) or None,
        # one rank's death ends the job at once; since 22.05 srun no longer takes over sbatch's CPUs a task
        "srun_args": ["--kill-on-bad-exit=1", f"--cpus-per-task={request.cpus}", *request.srun], "additional_parameters": extra,
    }  # fmt: skip
    return {key: value for key, value in asked.items() if value is not None}


def python_command(request: Request) -> str:
    """Signals wait until the job listens: until then the default would be to die of them."""
    start = request.python or shlex.quote(sys.executable)
    script = f'trap "" TERM USR1 USR2; exec {start} "$@"'
    return f"sh -c {shlex.quote(script)} mimbench"


def folder_of(store: Store) -> Path:
    """Scripts, pickles (strings alone) and the first words of jobs."""
    return store.root.resolve() / "slurm" / "%j"


def executor_of(store: Store, request: Request, name: str, more: dict[str, Any] | None = None) -> Any:
    from submitit.slurm.slurm import SlurmExecutor

    executor = SlurmExecutor(folder_of(store), max_num_timeout=request.max_requeues, python=python_command(request))
    asked = parameters(store, request, name, more)
    executor._internal_update_parameters(**asked)
    return executor


def scripts(
    runs: dict[str, Planned], grid: tuple[str, str], store: Store, profile: Profile
) -> Iterator[tuple[Group, str]]:
    """The sbatch scripts as they would be submitted now, without asking a cluster."""
    from submitit.slurm.slurm import _make_sbatch_string

    check(runs, profile)
    for group in groups(launch.wanted(runs, store), 1000):
        request = profile.of(group.kind)
        asked = parameters(store, request, _title(grid, group.kind), {"hold": True})
        if len(group.runs) > 1:
            asked["map_count"] = len(group.runs)
        command = f"{python_command(request)} -u -m submitit.core._submit {shlex.quote(str(folder_of(store)))}"
        yield group, _make_sbatch_string(command=command, folder=folder_of(store), **asked)
