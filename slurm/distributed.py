"""The ranks of one job connect without a fixed port, so that two jobs on one node cannot collide."""

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

CONNECT_SECONDS = 600  # ranks that import torch from a cold network disk may be far apart
TIMEOUT = datetime.timedelta(minutes=30)  # of a collective: the other ranks wait in one while rank 0 evaluates


@dataclass(frozen=True)
class Ranks:
    """The rank of this process in its job, and the number of ranks."""

    rank: int = 0
    local: int = 0
    world: int = 1

    @staticmethod
    def here() -> Ranks:
        from submitit import JobEnvironment

        environment = JobEnvironment()
        return Ranks(environment.global_rank, environment.local_rank, environment.num_tasks)

    def device(self) -> torch.device:
        """SLURM makes all GPUs of the node visible to a process, or only its own."""
        if not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", self.local % torch.cuda.device_count())


@contextlib.contextmanager
def process_group(ranks: Ranks, folder: Path) -> Iterator[None]:
    """torch.distributed over the ranks of this job: nccl on GPUs, else gloo."""
    if ranks.world == 1:
        yield
        return
    device = ranks.device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store = _connect(ranks, folder / f"rendezvous-{_start_id()}.json")
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=ranks.rank, world_size=ranks.world, timeout=TIMEOUT)
    try:
        yield
        dist.barrier()  # no rank closes its connections while others still use them
    finally:
        dist.destroy_process_group()


def _start_id() -> str:
    """Differs for each start of the job: a requeued job keeps its id."""
    return f"{os.environ.get('SLURM_JOB_ID', os.getppid())}-{os.environ.get('SLURM_RESTART_COUNT', '0')}"


def _connect(ranks: Ranks, note: Path) -> TCPStore:
    """Rank 0 listens on a free port and writes it to a file, which also proves that the folder is shared."""
    if ranks.rank == 0:
        store = TCPStore(socket.gethostname(), 0, ranks.world, is_master=True, wait_for_workers=False)
        write_json(note, {"host": socket.gethostname(), "port": store.port})
        return store
    end = time.monotonic() + CONNECT_SECONDS
    while not note.exists():
        if time.monotonic() > end:
            raise RunFailed(
                f"rank {ranks.rank} on {socket.gethostname()} found no file from rank 0 in {note.parent} after "
                f"{CONNECT_SECONDS} s; is the results folder on a file system that all nodes share?"
            )
        time.sleep(0.1)
        with contextlib.suppress(OSError):
            os.listdir(note.parent)  # makes a network file system look again
    place = read_json(note)
    return TCPStore(place["host"], place["port"], ranks.world, is_master=False)
