"""The one training loop: pre-training, tokenizer training and fine-tuning all go through `fit`.

Everything random is a function of (seed, step), so a run that is killed and resumed computes the same numbers as one
that is not. No step waits for the device, except the logged ones.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from mimbench.config.schema import ScheduleConfig
from mimbench.data.sampling import derive
from mimbench.data.views import to_unit
from mimbench.models.encoder import Encoder
from mimbench.pretrain.checkpoint import Checkpoint
from mimbench.pretrain.curve import LOG_EVERY, Curve
from mimbench.pretrain.optim import parameter_groups, set_rates
from mimbench.runtime import Runtime
from mimbench.store.weights import load_into, load_weights, save_weights


class Objective(nn.Module):
    """What a training minimizes."""

    may_leave_unused = False  # some parameters may have no gradient in a step: DDP has to search for them
    last_loss: Tensor  # that of the last logged step. It outlasts the curve, which is for reading

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("last_loss", torch.zeros(()))

    def prepare(self, batch: Any, step: int, runtime: Runtime) -> list[Any]:
        """This rank's batch -> the inputs of its micro-batches. On the CPU, from (seed, step)."""
        raise NotImplementedError

    def forward(self, micro: Any) -> Tensor:
        """The micro-batch's share of the loss: summed over all micro-batches and ranks it is the loss of the step."""
        raise NotImplementedError

    def after_backward(self, step: int) -> None:
        """Before gradients are clipped."""

    def after_step(self, step: int, world: int) -> None:
        """After the update: `step` updates were made."""

    def note(self) -> None:
        """Called ahead of a logged step: it may note more than its loss."""

    def noted(self) -> dict[str, float]:
        """By column of the curve, over all ranks; on each of them the same keys. The CPU may wait for the device."""
        return {}

    def own_parameters(self) -> list[dict[str, Any]]:
        """The optimizer's parameter groups with settings of their own: constant rates, not clipped."""
        return []

    def optimizer(self, groups: list[dict[str, Any]], schedule: ScheduleConfig, *, fused: bool) -> Optimizer:
        return torch.optim.AdamW(groups, lr=schedule.lr, betas=schedule.betas, fused=fused)


def fit(
    objective: Objective,
    stream: Callable[[int], Iterator[Any]],
    schedule: ScheduleConfig,
    folder: Path,
    seed: int,
    runtime: Runtime,
    *,
    curve: Path | None = None,
    lr_scale: Callable[[str], float] = lambda name: 1.0,
    watch: Callable[[int], None] | None = None,
) -> Path:
    """Train to the last step, resuming from the checkpoint in `folder` if there is one. Returns the final weights' path.

    `stream(step)` yields this rank's batches from that step on. `watch(step)` may look at the model after each update;
    it leaves it in training mode.
    """
    device, final = runtime.device, folder / "final.pt"
    if runtime.from_rank_0(final.exists()):
        load_into(objective, load_weights(final), final)
        objective.to(device)
        return final
    if runtime.rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
    _set_activation_checkpointing(objective, runtime.activation_checkpointing)
    objective.to(device).train()
    optimizer, clipped = _optimizer(objective, schedule, lr_scale, fused=device.type == "cuda")
    checkpoint = Checkpoint(folder / "checkpoint.pt", objective, optimizer, runtime)
    step, loss_sum = checkpoint.restore()
    log = Curve(curve or folder / "curve.csv", step, runtime)
    model: Any = _distributed(objective) if runtime.world > 1 else objective
    batches = stream(step)

    while step < schedule.steps:
        batch = next(batches)
        lr = set_rates(optimizer, schedule, step)
        torch.manual_seed(derive(seed, "step", step, runtime.rank))  # dropout, drop path, Gumbel noise

        logged = (step + 1) % LOG_EVERY == 0 or step + 1 == schedule.steps
        if logged:
            objective.note()
        micro_batches = objective.prepare(batch, step, runtime)
        for index, micro in enumerate(micro_batches):
            last = index + 1 == len(micro_batches)
            with contextlib.nullcontext() if last or runtime.world == 1 else model.no_sync():
                with torch.autocast(device.type, torch.bfloat16, enabled=schedule.precision == "bf16"):
                    loss = model(to_device(micro, device))
                (loss * runtime.world).backward()  # DDP takes the mean over ranks; the loss is a sum
            loss_sum += loss.detach()
        objective.after_backward(step)
        norm = None
        if schedule.clip is not None:
            norm = nn.utils.clip_grad_norm_(clipped, schedule.clip)
        optimizer.step()
        optimizer.zero_grad()

        step += 1
        objective.after_step(step, runtime.world)
        if logged:
            objective.last_loss.fill_(log.log(step, loss_sum, lr, norm, objective.noted()))
        runtime.progress(step, schedule.steps)
        if watch is not None:
            watch(step)
        checkpoint.after_step(step, schedule.steps, loss_sum)

    log.close()
    if runtime.rank == 0:
        save_weights(objective.state_dict(), final)
        checkpoint.path.unlink(missing_ok=True)
    if runtime.world > 1:
        dist.barrier()
    return final


def _optimizer(
    objective: Objective, schedule: ScheduleConfig, lr_scale: Callable[[str], float], *, fused: bool
) -> tuple[Optimizer, list[nn.Parameter]]:
    """And the parameters whose gradients are clipped: not those with settings of their own."""
    own = objective.own_parameters()
    apart = {id(parameter) for group in own for parameter in group["params"]}
    clipped = [parameter for parameter in objective.parameters() if id(parameter) not in apart]
    decayed = parameter_groups(objective, schedule.weight_decay, lr_scale, without=own, no_decay=schedule.no_decay)
    return objective.optimizer([*decayed, *own], schedule, fused=fused), clipped


def _distributed(objective: Objective) -> Any:
    return DistributedDataParallel(objective, find_unused_parameters=objective.may_leave_unused)


def _set_activation_checkpointing(objective: Objective, wanted: bool) -> None:
    for module in objective.modules():
        if isinstance(module, Encoder):
            module.activation_checkpointing = wanted


def to_device(value: Any, device: torch.device) -> Any:
    """Tensors in any nesting; images travel as bytes."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        moved = {k: to_device(v, device) for k, v in value.items()}
        return {k: to_unit(v) if k in ("raw", "tokenizer_raw") else v for k, v in moved.items()}
    return value.to(device) if hasattr(value, "to") else value
