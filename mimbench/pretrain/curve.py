"""curve.csv: one line every LOG_EVERY steps, with the mean loss since the last line."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import torch.distributed as dist
from torch import Tensor

from mimbench.errors import Diverged
from mimbench.runtime import Runtime
from mimbench.store.files import write_atomically

LOG_EVERY = 50  # steps
HEADER = ["step", "loss", "lr", "grad_norm"]


class Curve:
    """Written by rank 0. Cut back to the checkpoint on resume, so that no step appears twice."""

    def __init__(self, path: Path, step: int, runtime: Runtime) -> None:
        self.path, self.runtime, self.tensorboard = path, runtime, None
        if runtime.rank == 0 and path.exists():
            with path.open(newline="") as stream:
                lines = list(csv.reader(stream))[1:]
            kept = [line for line in lines if len(line) == len(HEADER) and int(line[0]) <= step]
            write_atomically(path, "".join(",".join(line) + "\n" for line in [HEADER, *kept]))
        if runtime.rank == 0 and runtime.tensorboard:
            from mmengine.visualization import TensorboardVisBackend  # imports matplotlib: only on request

            self.tensorboard = TensorboardVisBackend(str(path.parent / "work" / "tensorboard"))

    def log(self, step: int, loss_sum: Tensor, lr: float, grad_norm: Tensor | None) -> None:
        """Add a line and reset the sum. The only point of a training at which the CPU waits for the device."""
        mean = loss_sum / ((step - 1) % LOG_EVERY + 1)
        if self.runtime.world > 1:
            dist.all_reduce(mean)
        loss = float(mean)
        loss_sum.zero_()
        if not math.isfinite(loss):
            raise Diverged(f"the loss became {loss} before step {step}; try a lower learning rate")
        if self.runtime.rank:
            return
        norm = math.nan if grad_norm is None else float(grad_norm)
        header = "" if self.path.exists() else ",".join(HEADER) + "\n"
        with self.path.open("a") as stream:
            stream.write(f"{header}{step},{loss:.6g},{lr:.6g},{norm:.6g}\n")
        if self.tensorboard is not None:
            self.tensorboard.add_scalars({"loss": loss, "lr": lr, "grad_norm": norm}, step=step)
