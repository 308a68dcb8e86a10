"""What `mimbench doctor --on slurm:PROFILE` checks on the cluster, through one short job."""

from __future__ import annotations

import dataclasses
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mimbench.env import slurm_job
from mimbench.launch.logs import job_output, last_lines
from mimbench.launch.queue import QueueUnavailable
from mimbench.slurm import queue
from mimbench.slurm.profile import Profile
from mimbench.slurm.sbatch import executor_of
from mimbench.store.files import read_json, write_json
from mimbench.store.results import Store

WAIT_SECONDS = 600
Check = tuple[str, str]  # ok, warn or BAD; what was found


def probe(path: str) -> None:
    """The job: the ranks connect, compute a sum, and each writes a file about what it sees."""
    import torch
    import torch.distributed as dist

    from mimbench.slurm.distributed import Ranks, process_group

    ranks, folder = Ranks.here(), Path(path)
    device = ranks.device()
    with process_group(ranks, folder):
        (folder / f"begun-{ranks.rank}").touch()
        total = torch.full((), ranks.rank + 1.0, device=device)
        if ranks.world > 1:
            dist.all_reduce(total)
        facts = {
            "host": socket.gethostname(), "cores": len(os.sched_getaffinity(0)), "requeues": _can_requeue(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "sum": float(total),  # which waits for all ranks
            "sees": sum((folder / f"begun-{rank}").exists() for rank in range(ranks.world)),
        }  # fmt: skip
        write_json(folder / f"rank-{ranks.rank}.json", facts)


def _can_requeue() -> bool:
    """Whether SLURM's commands work inside the job; in a container without them they do not."""
    try:
        return queue.state_of(slurm_job() or "") is not None
    except QueueUnavailable:
        return False


def cluster_checks(store: Store, profile: Profile) -> Iterator[Check]:
    """With a job as the profile requests it for pre-training, but short."""
    try:
        yield "ok", " ".join(queue.ask("sinfo", "--version").split())
        queue.ask("scontrol", "ping")
    except QueueUnavailable as error:
        yield "BAD", f"the cluster does not answer: {error}"
        return
    yield "ok", f"accounting: {_accounting()}"
    request = profile.of("pretrain")
    request = dataclasses.replace(request, hours=min(request.hours, max(0.25, request.grace_seconds / 1800)))
    folder = store.root.resolve() / "slurm" / f"doctor-{os.getpid()}-{time.time_ns()}"
    folder.mkdir(parents=True)
    begun = time.monotonic()
    try:
        job = str(executor_of(store, request, f"{queue.TITLE}doctor").submit(probe, str(folder)).job_id)
    except Exception as error:
        yield "BAD", f"sbatch refused the job: {' '.join(str(error).split())}"
        return
    place = f"{request.nodes} nodes x {request.ranks_per_node} ranks, partition {request.partition or 'default'}"
    yield "ok", f"job {job}: {place}"
    while queue.queued([job]):
        if time.monotonic() - begun > WAIT_SECONDS:
            queue.cancel([job])
            yield "BAD", f"job {job} had not finished after {WAIT_SECONDS} s and was cancelled"
            return
        time.sleep(1)
    paths = [folder / f"rank-{rank}.json" for rank in range(request.world)]
    if missing := ", ".join(path.stem for path in paths if not path.exists()):
        output = last_lines(job_output(job, store.root.resolve()), 1)
        yield "BAD", f"no result from {missing}: {(output or ['its log is empty or not visible here'])[0]}"
        return
    yield from _job_checks([read_json(path) for path in paths], time.monotonic() - begun)


def _accounting() -> str:
    try:
        queue.ask("sacct", "--noheader", "--jobs=1")
    except QueueUnavailable:
        return "none; a killed job is recognized by leaving the queue"
    return "yes"


def _job_checks(ranks: list[dict[str, Any]], seconds: float) -> Iterator[Check]:
    """From what each rank wrote."""
    world, sums = len(ranks), [rank["sum"] for rank in ranks]
    hosts = ", ".join(sorted({rank["host"] for rank in ranks}))
    yield "ok", f"ranks: all {world} connected on {hosts} after {seconds:.0f} s; {ranks[0]['device']}"
    yield "ok", f"cores per rank: {', '.join(sorted({str(rank['cores']) for rank in ranks}))}"
    if set(sums) == {world * (world + 1) / 2}:
        yield "ok", "all-reduce: the sum is right on every rank"
    else:
        yield "BAD", f"all-reduce: wrong sums: {sums}"
    if all(rank["requeues"] for rank in ranks):
        yield "ok", "requeueing: scontrol answers from within the job"
    else:
        yield (
            "BAD",
            (
                "requeueing: scontrol does not answer from within the job, so no run can continue after a time limit; "
                "a container must include it"
            ),
        )
    if all(rank["sees"] == world for rank in ranks):
        yield "ok", "results folder: every rank sees the files of all"
    else:
        yield "BAD", "results folder: ranks do not see one another's files: it must be shared"
