"""How a process carries out a run: device and ranks, being asked to stop, its log and progress, quick imports.

None of it is part of a run's name. Imports no torch: launchers and jobs use it before the heavy imports.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mimbench.errors import Interrupted

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
PROGRESS_SECONDS = 1.0  # between two notes


class Stop:
    """A flag that signal handlers set and the training loop reads at the next step boundary."""

    def __init__(self) -> None:
        self.requested = False

    def listen(self) -> None:
        for number in STOP_SIGNALS:
            signal.signal(number, lambda *_: self.request())

    def ignore(self) -> None:
        """Nothing is left to stop. Python restores the deadly default handlers as it ends, but keeps ignored signals."""
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def request(self) -> None:
        self.requested = True


def _cpu() -> torch.device:
    import torch

    return torch.device("cpu")


@dataclass(frozen=True)
class Runtime:
    """Where and how a run is executed. It does not change what is computed, up to the order of sums.

    Three exceptions. Noise that a model draws itself (drop path, dropout, a dVAE's Gumbel noise) follows from (seed, step,
    rank) per micro-batch, so splitting the batch differently draws other numbers of the same distribution. What is a
    function of a whole batch (a dVAE's uniformity term, batch norm in segmentation and in MAE's probe) sees one
    micro-batch (batch norm: those of all ranks). Mixup and cutmix pair the images of one rank.
    """

    device: torch.device = field(default_factory=_cpu)
    rank: int = 0
    world: int = 1
    workers: int = 0  # loader workers
    micro_batch: int | None = None  # images per forward pass; None: the rank's whole share
    checkpoint_seconds: float = 60.0
    tensorboard: bool = False
    wandb: bool = False  # offline
    activation_checkpointing: bool = False  # recompute activations in the backward pass: less memory, slower
    stop: Stop = field(default_factory=Stop)
    progress: Callable[[int, int], None] = lambda step, steps: None

    def raise_if_stopping(self) -> None:
        """Between the batches of an evaluation. Several ranks agree between training steps only."""
        if self.stop.requested and self.world == 1:
            raise Interrupted("stopped within an evaluation")

    def from_rank_0(self, value: T) -> T:
        """Rank 0's value on every rank: a shared file system may show each rank something else."""
        if self.world == 1:
            return value
        import torch.distributed as dist

        shared: list[Any] = [value]
        dist.broadcast_object_list(shared, src=0, device=self.device)
        return shared[0]


def local_runtime(**settings: Any) -> Runtime:
    """The first visible GPU (of several ranks: the local rank's), else the CPU."""
    import torch

    if not torch.cuda.is_available():
        return Runtime(**settings)
    return Runtime(device=torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))), **settings)


class Progress:
    """work/progress.json: step, steps, rate and memory, for the display and `status`. At most once a second."""

    def __init__(self, work: Path) -> None:
        self.path = work / "progress.json"
        self.path.unlink(missing_ok=True)  # of an earlier attempt
        self.last, self.last_step = time.monotonic(), -1

    def __call__(self, step: int, steps: int) -> None:
        now = time.monotonic()
        if self.last_step < 0:  # where a resumed run begins: only from here on there is a rate
            self.last, self.last_step = now, step
        if now - self.last < PROGRESS_SECONDS:
            return
        rate = max(0, step - self.last_step) / (now - self.last)
        self.last, self.last_step = now, step
        note = {"step": step, "steps": steps, "steps_per_second": round(rate, 2), "gpu_memory_bytes": gpu_memory()}
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(note))
        temporary.replace(self.path)


def gpu_memory() -> int | None:
    """Peak bytes reserved on the GPU by this process; reading it does not synchronize."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    return int(torch.cuda.max_memory_reserved())


def log_to(path: Path) -> None:
    """Redirect everything this process prints to the run's own log, appended across attempts.

    A run folder that was moved away is not made again.
    """
    path.parent.mkdir(exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    with path.open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)


@contextlib.contextmanager
def quick_imports() -> Iterator[None]:
    """Import without the garbage collector, which would scan all new objects repeatedly and free nothing.

    `import mimbench.launch.worker` takes 3.0 s of CPU time with it and 4.9 s without. Objects made here are never
    collected later either, so this belongs at the start of a process.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
