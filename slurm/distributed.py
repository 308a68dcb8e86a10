"""The ranks of one job find one another without a port agreed beforehand, so that no two jobs on a node can clash."""

from __future__ import annotations

import contextlib
import datetime
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from mimbench.errors import RunFailed
from mimbench.store.files import read_json, write_json

MEET_SECONDS = 600  # the first to import torch from a cold network disk waits for the last
SILENCE = datetime.timedelta(minutes=30)  # of a peer in a collective, such as rank 0 evaluating, before the job ends


@dataclass(frozen=True)
class Ranks:
    """Where this process stands in its job, as submitit's environment tells it."""

    rank: int = 0
    local: int = 0
    world: int = 1

    @staticmethod
    def here() -> Ranks:
        from submitit import JobEnvironment

        environment = JobEnvironment()
        return Ranks(environment.global_rank, environment.local_rank, environment.num_tasks)

    def device(self) -> torch.device:
        """SLURM shows a process its node's GPUs, or its own alone."""
        if not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", self.local % torch.cuda.device_count())


@contextlib.contextmanager
def process_group(ranks: Ranks, folder: Path) -> Iterator[None]:
    """torch.distributed over the ranks of this job: nccl on GPUs, gloo elsewhere."""
    if ranks.world == 1:
        yield
        return
    device = ranks.device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store = _meet(ranks, folder / f"rendezvous-{_incarnation()}.json")
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=ranks.rank, world_size=ranks.world, timeout=SILENCE)
    try:
        yield
        dist.barrier()  # nobody closes its connections while others still use them
    finally:
        dist.destroy_process_group()


def _incarnation() -> str:
    """One meeting place each time the job starts: a requeued job keeps its id."""
    return f"{os.environ.get('SLURM_JOB_ID', os.getppid())}-{os.environ.get('SLURM_RESTART_COUNT', '0')}"


def _meet(ranks: Ranks, note: Path) -> TCPStore:
    """Rank 0 listens on a port that is free and writes down which; the file also proves that the folder is shared."""
    if ranks.rank == 0:
        store = TCPStore(socket.gethostname(), 0, ranks.world, is_master=True, wait_for_workers=False)
        write_json(note, {"host": socket.gethostname(), "port": store.port})
        return store
    end = time.monotonic() + MEET_SECONDS
    while not note.exists():
        if time.monotonic() > end:
            raise RunFailed(
                f"rank {ranks.rank} on {socket.gethostname()} saw no word of rank 0 in {note.parent} within {MEET_SECONDS} s; "
                "is the results folder on a file system that all nodes share?"
            )
        time.sleep(0.1)
        with contextlib.suppress(OSError):
            os.listdir(note.parent)  # makes a network file system look again
    place = read_json(note)
    return TCPStore(place["host"], place["port"], ranks.world, is_master=False)
