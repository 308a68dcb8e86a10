"""The training state on disk: saved at intervals and when asked to stop, restored bit for bit."""

from __future__ import annotations

import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mimbench.errors import Interrupted, RunFailed, UserError
from mimbench.runtime import Runtime
from mimbench.store.weights import load_into, load_weights, not_of_this_version, save_weights

AGREE_SECONDS, AGREE_STEPS = 0.5, 8  # upper bounds on the interval at which the ranks ask one another whether to stop


class Checkpoint:
    """A kill at any moment leaves the last whole file."""

    def __init__(self, path: Path, objective: nn.Module, optimizer: torch.optim.Optimizer, runtime: Runtime) -> None:
        self.path, self.objective, self.optimizer, self.runtime = path, objective, optimizer, runtime
        self.saved = self.agreed = time.monotonic()
        self.agreed_step = self.next_agreement = 0  # the same on every rank

    def restore(self) -> tuple[int, Tensor]:
        """(step, loss since the last logged step) to go on from; (0, 0) where nothing was saved."""
        if not self.runtime.from_rank_0(self.path.exists()):
            return 0, torch.zeros((), device=self.runtime.device)
        state = load_weights(self.path, self.runtime.device)
        try:
            step, sums = state["step"], state["loss_sums"]
            load_into(self.objective, state["objective"], self.path)
            self.optimizer.load_state_dict(state["optimizer"])
        except (KeyError, TypeError, ValueError) as error:
            raise error if isinstance(error, UserError) else not_of_this_version(self.path) from error
        if self.runtime.from_rank_0(step) != step:
            raise RunFailed(f"{self.path}: checkpoint step differs across ranks; does this node see an older file?")
        return step, self._own_share(sums)

    def _own_share(self, sums: Tensor) -> Tensor:
        """This rank's loss sum. Where the number of ranks has changed, all of it on rank 0."""
        if len(sums) == self.runtime.world:
            return sums[self.runtime.rank].clone()
        return sums.sum() if self.runtime.rank == 0 else torch.zeros_like(sums[0])

    def after_step(self, step: int, steps: int, loss_sum: Tensor) -> None:
        """Save if it is time to, or if asked to stop; then stop."""
        due = time.monotonic() - self.saved >= self.runtime.checkpoint_seconds
        stop = self.runtime.stop.requested
        if self.runtime.world > 1:
            due, stop = self._agree(due, stop, step) if step >= self.next_agreement else (False, False)
        if due or stop:
            self.save(step, loss_sum)
        if stop:
            raise Interrupted(f"stopped at step {step} of {steps}")

    def _agree(self, due: bool, stop: bool, step: int) -> tuple[bool, bool]:
        """If one rank wants to save or stop, all do. It waits for the device, so it happens every step only if steps are slow."""
        now = time.monotonic()
        flags = torch.tensor([due, stop, now - self.agreed], dtype=torch.float64, device=self.runtime.device)
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        any_due, any_stop, seconds = flags.tolist()
        seconds_per_step = seconds / max(1, step - self.agreed_step)
        self.agreed, self.agreed_step = now, step
        self.next_agreement = step + max(1, min(AGREE_STEPS, int(AGREE_SECONDS / max(seconds_per_step, 1e-6))))
        return bool(any_due), bool(any_stop)

    def save(self, step: int, loss_sum: Tensor) -> None:
        self.saved = time.monotonic()
        sums = loss_sum.reshape(1)
        if self.runtime.world > 1:  # every rank has its own share
            shares = [torch.empty_like(sums) for _ in range(self.runtime.world)]
            dist.all_gather(shares, sums)
            sums = torch.cat(shares)
        if self.runtime.rank == 0:
            state = {"step": step, "objective": self.objective.state_dict(),
                     "optimizer": self.optimizer.state_dict(), "loss_sums": sums}  # fmt: skip
            save_weights(state, self.path)
