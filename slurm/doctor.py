"""`mimbench doctor`: whether this machine, and with a profile the cluster, can do the work. Looks, and changes nothing."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mimbench import env
from mimbench.data.sources.images import DATA_ROOT
from mimbench.errors import RunFailed, UserError
from mimbench.launch.state import said_by
from mimbench.slurm import queue
from mimbench.slurm.profile import Profile
from mimbench.store.files import read_json, write_json
from mimbench.store.lease import slurm_job
from mimbench.store.results import Store

PROBE_BYTES = 64 * 2**20
LEAST_FREE = 5 * 2**30
WAIT_SECONDS = 600


class Probe:
    """A short job: every rank meets the others, adds numbers up, and leaves a note that the rest can read."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __call__(self) -> None:
        import torch
        import torch.distributed as dist

        from mimbench.slurm.distributed import Ranks, process_group

        ranks, folder = Ranks.here(), Path(self.folder)
        with process_group(ranks, folder):
            total = torch.full((), ranks.rank + 1.0, device=ranks.device())
            if ranks.world > 1:
                dist.all_reduce(total)
            device = torch.cuda.get_device_name(ranks.device()) if ranks.device().type == "cuda" else "cpu"
            write_json(folder / f"rank-{ranks.rank}.json", {"host": socket.gethostname(), "device": device,
                                                            "sum": float(total), "cores": len(os.sched_getaffinity(0)),
                                                            "requeues": _can_requeue()})  # fmt: skip
            if ranks.world > 1:
                dist.barrier()
            seen = sum((folder / f"rank-{other}.json").exists() for other in range(ranks.world))
            write_json(folder / f"sees-{ranks.rank}.json", {"notes": seen, "world": ranks.world})


def _can_requeue() -> bool:
    """Whether a job can ask after itself from where it runs, which a container without SLURM's commands cannot."""
    try:
        return queue.state_of(slurm_job() or "") is not None
    except queue.QueueSilent:
        return False


def machine_lines(store: Store) -> Iterator[tuple[bool, str]]:
    """(good, what was found) of this machine."""
    import torch

    versions = ", ".join(f"{k} {v}" for k, v in env.versions().items())
    yield True, f"versions: {versions}"
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            yield True, f"GPU {index}: {properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    else:
        yield True, f"no GPU; {os.cpu_count()} CPU cores ({env.facts()['cpu']})"
    yield True, "precision: " + ("bf16 pays here" if env.bf16_pays() else "fp32 (bf16 would be slower here)")
    yield from _disk(store)
    yield from _data()


def _disk(store: Store) -> Iterator[tuple[bool, str]]:
    try:
        store.check_writable()
    except UserError as error:
        yield False, str(error)
        return
    free = shutil.disk_usage(store.root).free
    path = store.root / f".doctor-{os.getpid()}"
    block = os.urandom(2**20)
    begun = time.perf_counter()
    try:
        with path.open("wb") as stream:
            for _ in range(PROBE_BYTES // len(block)):
                stream.write(block)
            stream.flush()
            os.fsync(stream.fileno())
        seconds = time.perf_counter() - begun
    except OSError as error:
        yield False, f"{store.root}: cannot be written ({error.strerror})"
        return
    finally:
        path.unlink(missing_ok=True)
    rate = PROBE_BYTES / 2**20 / seconds
    yield free >= LEAST_FREE, f"{store.root}: {free / 2**30:.0f} GiB free, writes {rate:.0f} MiB/s"


def _data() -> Iterator[tuple[bool, str]]:
    yield True, "data: shapes (embedded)"
    root = os.environ.get(DATA_ROOT)
    if not root:
        yield True, f"data: {DATA_ROOT} is not set, so there are no photographs"
    elif not Path(root).is_dir():
        yield False, f"data: {DATA_ROOT}={root} is no folder"
    else:
        names = sorted(p.name for p in Path(root).iterdir() if p.is_dir())
        yield True, f"data: {root} has {', '.join(names) or 'nothing'}"


def cluster_lines(store: Store, profile: Profile, kind: str = "pretrain") -> Iterator[tuple[bool, str]]:
    """The same of the cluster, through a job as the profile asks for it."""
    from dataclasses import replace

    from mimbench.slurm.submit import executor_of

    try:
        yield True, " ".join(queue.ask("sinfo", "--version").split())
        queue.ask("scontrol", "ping")
    except queue.QueueSilent as silent:
        yield False, f"the cluster does not answer: {silent}"
        return
    try:
        queue.ask("sacct", "--noheader", "--jobs=1")
        yield True, "accounting: yes"
    except queue.QueueSilent:
        yield True, "accounting: none; a job that is killed is told from its leaving the queue"
    request = replace(
        profile.of(kind), hours=min(profile.of(kind).hours, max(0.25, profile.of(kind).grace_seconds / 1800))
    )
    folder = store.root.resolve() / "slurm" / f"doctor-{os.getpid()}-{time.time_ns()}"
    folder.mkdir(parents=True)
    begun = time.monotonic()
    try:
        job = executor_of(store, request, f"{queue.TITLE}doctor").submit(Probe(str(folder))).job_id
    except Exception as error:
        yield False, f"sbatch refused the job: {' '.join(str(error).split())}"
        return
    yield (
        True,
        f"job {job}: {request.nodes} nodes x {request.ranks_a_node} ranks, partition {request.partition or 'default'}",
    )
    yield from _outcome(folder, str(job), request.world, begun, store)


def _outcome(folder: Path, job: str, world: int, begun: float, store: Store) -> Iterator[tuple[bool, str]]:
    while queue.queued([job]):
        if time.monotonic() - begun > WAIT_SECONDS:
            queue.cancel([job])
            yield False, f"job {job} was still waiting after {WAIT_SECONDS} s and was cancelled"
            return
        time.sleep(1)
    notes = [_note(folder / f"rank-{rank}.json") for rank in range(world)]
    missing = [rank for rank, note in enumerate(notes) if note is None]
    if missing:
        words = _last_words(store, job)
        yield False, f"no word of rank {', '.join(map(str, missing))}: {words}"
        return
    found = [note for note in notes if note is not None]
    hosts = sorted({str(note["host"]) for note in found})
    yield (
        True,
        f"ranks: all {world} met on {', '.join(hosts)} after {time.monotonic() - begun:.0f} s; {found[0]['device']}",
    )
    good = all(note["sum"] == world * (world + 1) / 2 for note in found)
    yield (
        good,
        "all-reduce: " + ("the sum is right on every rank" if good else f"wrong sums {[n['sum'] for n in found]}"),
    )
    able = all(note["requeues"] for note in found)
    yield able, "requeueing: " + ("scontrol answers from within the job" if able else "scontrol does not answer from within the job, "
                                  "so no run can go on after a time limit; the container must hold it")  # fmt: skip
    yield True, f"cores a rank: {', '.join(str(n) for n in sorted({note['cores'] for note in found}))}"
    sees = [_note(folder / f"sees-{rank}.json") or {"notes": 0} for rank in range(world)]
    shared = all(note["notes"] == world for note in sees)
    yield (
        shared,
        "results folder: " + ("every rank sees the files of all" if shared else "ranks do not see one another's files"),
    )


def _note(path: Path) -> dict[str, Any] | None:
    return read_json(path) if path.exists() else None


def _last_words(store: Store, job: str) -> str:
    path = said_by(job, store.root.resolve())[0]
    try:
        lines = path.read_text(errors="replace").strip().splitlines()
    except OSError:
        return f"and no log in {path.parent}; is that folder visible on the nodes?"
    return lines[-1] if lines else "its log is empty"


def verdict(lines: Iterator[tuple[bool, str]]) -> Iterator[str]:
    """The lines as they are found; raises at the end where something is wrong."""
    wrong = 0
    for good, text in lines:
        wrong += not good
        yield f"{'ok ' if good else 'BAD'} {text}"
    if wrong:
        raise RunFailed(f"{wrong} of the checks found something wrong")
