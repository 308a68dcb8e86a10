"""curve.csv: one line every LOG_EVERY steps, with the mean loss since the last line, and what this step noted beside it."""

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


class Curve:
    """Written by rank 0. Cut back to the checkpoint on resume, so that no step appears twice."""

    def __init__(self, path: Path, step: int, runtime: Runtime) -> None:
        self.path, self.runtime, self.tensorboard = path, runtime, None
        self.columns: list[str] = []  # empty until the first line is written
        if runtime.rank == 0 and path.exists():
            with path.open(newline="") as stream:
                self.columns, *lines = list(csv.reader(stream)) or [[]]
            kept = [line for line in lines if len(line) == len(self.columns) and int(line[0]) <= step]
            self.columns = self.columns if kept else []
            written = [self.columns, *kept] if kept else []
            write_atomically(path, "".join(",".join(line) + "\n" for line in written))
        if runtime.rank == 0 and runtime.tensorboard:
            from mmengine.visualization import TensorboardVisBackend  # imports matplotlib: only on request

            self.tensorboard = TensorboardVisBackend(str(path.parent / "work" / "tensorboard"))

    def log(self, step: int, loss_sum: Tensor, lr: float, grad_norm: Tensor | None, noted: dict[str, float]) -> None:
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
        values = {"loss": loss, "lr": lr, "grad_norm": math.nan if grad_norm is None else float(grad_norm), **noted}
        with self.path.open("a") as stream:
            if not self.columns:
                self.columns = ["step", *values]
                stream.write(",".join(self.columns) + "\n")
            figures = (f"{values[column]:.6g}" if column in values else "" for column in self.columns[1:])
            stream.write(f"{step},{','.join(figures)}\n")
        if self.tensorboard is not None:
            self.tensorboard.add_scalars(values, step=step)
