"""What the engine asks of a cluster's queue. `slurm/queue.py` answers it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from mimbench.errors import RunFailed

WAITING = ("PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "SUSPENDED", "STOPPED")


class QueueUnavailable(RunFailed):
    """The cluster did not answer."""


@dataclass(frozen=True)
class Job:
    """One job, or one task of an array."""

    id: str  # "17", or "17_3" for a task
    state: str  # as SLURM names it: PENDING, RUNNING, ...
    reason: str
    nodes: str
    dependency: str = ""
    name: str = ""
    comment: str = ""

    @property
    def waiting(self) -> bool:
        return self.state in WAITING


class Queue(Protocol):
    def queued(self, ids: Iterable[str]) -> dict[str, Job]:
        """Those of these jobs that are in the queue: waiting, running or ending. May raise QueueUnavailable."""

    def ended(self, ids: Iterable[str]) -> dict[str, Job]:
        """How jobs that left the queue ended; empty without accounting."""
