"""curve.csv: one line every LOG_EVERY steps, with the mean loss since the last line, and what this step noted beside it."""

from __future__ import annotations

import csv
import math
import sys
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor

from mimbench.errors import Diverged
from mimbench.runtime import Runtime
from mimbench.store.files import write_atomically

LOG_EVERY = 50  # steps
FIGURES = ".6g"


class Curve:
    """Written by rank 0. Cut back to the checkpoint on resume, so that no step appears twice.

    No result is read from it: what cannot be read of a curve is left out, and training goes on.
    """

    def __init__(self, path: Path, step: int, runtime: Runtime) -> None:
        self.path, self.runtime = path, runtime
        self.columns: list[str] = []  # empty until the first line is written
        if runtime.rank == 0:
            self.columns, kept = _written(path, step)
            if len(kept) < (expected := step // LOG_EVERY):
                print(f"{path}: {len(kept)} of the {expected} lines up to step {step} can be read; goes on without the "
                      "others", file=sys.stderr)  # fmt: skip
            if path.exists():
                written = [self.columns, *kept] if kept else []
                write_atomically(path, "".join(",".join(line) + "\n" for line in written))
        self.boards = _boards(path.parent, runtime) if runtime.rank == 0 else []

    def log(self, step: int, loss_sum: Tensor, lr: float, grad_norm: Tensor | None, noted: dict[str, float]) -> float:
        """Add a line and reset the sum; returns the mean. The only point of a training at which the CPU waits for the device."""
        mean = loss_sum / ((step - 1) % LOG_EVERY + 1)
        if self.runtime.world > 1:
            dist.all_reduce(mean)
        loss = float(mean)
        loss_sum.zero_()
        if not math.isfinite(loss):
            raise Diverged(f"the loss became {loss} before step {step}; try a lower learning rate")
        if self.runtime.rank:
            return loss
        values = {"loss": loss, "lr": lr, "grad_norm": math.nan if grad_norm is None else float(grad_norm), **noted}
        with self.path.open("a") as stream:
            if not self.columns:
                self.columns = ["step", *values]
                stream.write(",".join(self.columns) + "\n")
            figures = (f"{values[column]:{FIGURES}}" if column in values else "" for column in self.columns[1:])
            stream.write(f"{step},{','.join(figures)}\n")
        for board in self.boards:
            board.add_scalars({**values, "steps": step}, step=step)  # W&B ignores the argument
        return loss

    def close(self) -> None:
        for board in self.boards:
            board.close()


def _boards(run: Path, runtime: Runtime) -> list[Any]:
    """What else shows the curve, in the run's work folder."""
    boards: list[Any] = []
    if runtime.tensorboard or runtime.wandb:
        from mmengine.visualization import TensorboardVisBackend, WandbVisBackend  # import matplotlib: only on request

        offline = {"mode": "offline", "project": "mimbench", "name": run.name}
        boards += [TensorboardVisBackend(str(run / "work" / "tensorboard"))] if runtime.tensorboard else []
        boards += [WandbVisBackend(str(run / "work" / "wandb"), init_kwargs=offline)] if runtime.wandb else []
    return boards


def _written(path: Path, step: int) -> tuple[list[str], list[list[str]]]:
    """The columns, and the whole lines up to a step; none of a curve that is not there, or is none."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
        columns, *lines = csv.reader(text[: text.rfind("\n") + 1].splitlines())
    except (OSError, ValueError, csv.Error):
        return [], []
    if columns[:2] != ["step", "loss"]:
        return [], []
    kept = [line for line in lines if len(line) == len(columns) and _is_up_to(step, line)]
    return columns if kept else [], kept


def _is_up_to(step: int, line: list[str]) -> bool:
    try:
        return int(line[0]) <= step and math.isfinite(float(line[1]))
    except ValueError:
        return False
