"""The one training loop, on mmengine's Runner: pre-training, tokenizer training and fine-tuning all go through `fit`.

Everything random is a function of (seed, step), so a run that was killed and goes on from its checkpoint computes the
same numbers as one that was not. Nothing in a step waits for the device, except on the steps that are logged.
"""

from __future__ import annotations

import contextlib
import csv
import io
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper
from mmengine.runner import BaseLoop, Runner
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mimbench.config.schema import ScheduleConfig
from mimbench.data.sampling import derive
from mimbench.errors import Interrupted, RunFailed, UserError
from mimbench.models.encoder import Encoder
from mimbench.runtime import Stop
from mimbench.store.files import write_atomically

T = TypeVar("T")

LOG_EVERY = 50  # steps; part of what curve.csv holds
AGREE_SECONDS, AGREE_STEPS = 0.5, 8  # at most so long between the ranks' asking one another whether to stop


class Objective(nn.Module):
    """What a training minimises."""

    may_leave_unused = False  # some parameter may take no part in a step: DDP has to look for it

    def prepare(self, batch: Any, step: int, place: Place) -> list[Any]:
        """This rank's batch -> the inputs of its micro-batches. On the CPU, from (seed, step)."""
        raise NotImplementedError

    def forward(self, micro: Any) -> Tensor:
        """The micro-batch's share of the loss: summed over all micro-batches and ranks it is the loss of the step."""
        raise NotImplementedError


@dataclass(frozen=True)
class Place:
    """Where a training runs. None of it changes what is computed, up to the order of sums.

    Two exceptions. Noise that a model draws itself (drop path, dropout, a dVAE's Gumbel noise) follows from (seed, step, rank)
    micro-batch by micro-batch, so another division of the batch draws other numbers of the same distribution. And what
    is a function of a whole batch (a dVAE's uniformity term, UPerNet's batch norm) sees one micro-batch (batch norm: those
    of all ranks).
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    rank: int = 0
    world: int = 1
    workers: int = 0  # loader workers
    micro_batch: int | None = None  # images of one forward pass; None: the rank's whole share
    checkpoint_seconds: float = 60.0
    tensorboard: bool = False
    recompute: bool = False  # activations, in the backward pass: for what is too large to keep them
    stop: Stop = field(default_factory=Stop)
    progress: Callable[[int, int], None] = lambda step, steps: None

    def breathe(self) -> None:
        """Between the batches of an evaluation: stop here if asked. Several ranks agree between steps alone."""
        if self.stop.asked and self.world == 1:
            raise Interrupted("stopped within an evaluation")

    def of_first_rank(self, value: T) -> T:
        """What rank 0 says, on every rank: a shared file system may show each of them something else."""
        if self.world == 1:
            return value
        said: list[Any] = [value]
        dist.broadcast_object_list(said, src=0, device=self.device)
        return said[0]


def learning_rate(schedule: ScheduleConfig, step: int) -> float:
    """Of step 0, 1, ...: linear warm-up from 0, then half a cosine that reaches min_lr after the last step."""
    if step < schedule.warmup:
        return schedule.lr * step / schedule.warmup
    done = (step - schedule.warmup) / max(1, schedule.steps - schedule.warmup)
    return schedule.min_lr + 0.5 * (schedule.lr - schedule.min_lr) * (1 + math.cos(math.pi * done))


def parameter_groups(
    model: nn.Module, weight_decay: float, scale: Callable[[str], float] = lambda name: 1.0
) -> list[dict[str, Any]]:
    """No decay for biases, norms, tokens and position embeddings (relative positions decay, as in BEiT's code).

    `scale` multiplies a parameter's learning rate.
    """
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        bare = parameter.ndim <= 1 or name.endswith(("pos_embed", "cls_token", "mask_token"))
        key = (0.0 if bare else weight_decay, scale(name))
        group = groups.setdefault(key, {"params": [], "weight_decay": key[0], "lr_scale": key[1]})
        group["params"].append(parameter)
    return list(groups.values())


class Trainee(nn.Module):
    """Carries out one optimiser step: micro-batches, gradients averaged over ranks, clip, update."""

    def __init__(self, objective: Objective, schedule: ScheduleConfig, seed: int, place: Place) -> None:
        super().__init__()
        self.objective = objective.to(place.device)
        self.schedule, self.seed, self.place = schedule, seed, place
        # held in a list: DDP registers nothing of its own, and state_dict stays the objective's
        self._call: list[Any] = [self.objective if place.world == 1 else _wrapped(self.objective)]
        self.step = 0
        self.loss_sum = torch.zeros((), device=place.device)  # since the last logged step

    def train_step(self, batch: Any, optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        call, place = self._call[0], self.place
        torch.manual_seed(derive(self.seed, "step", self.step, place.rank))  # dropout, drop path, Gumbel noise
        micros = self.objective.prepare(batch, self.step, place)
        for index, micro in enumerate(micros):
            more = index + 1 < len(micros) and place.world > 1
            with call.no_sync() if more else contextlib.nullcontext():
                with torch.autocast(place.device.type, torch.bfloat16, enabled=self.schedule.precision == "bf16"):
                    loss = call(to_device(micro, place.device))
                (loss * place.world).backward()  # DDP takes the mean over ranks; the loss is a sum
            self.loss_sum += loss.detach()
        norm = None
        if self.schedule.clip is not None:
            norm = torch.nn.utils.clip_grad_norm_(self.objective.parameters(), self.schedule.clip)
        optim_wrapper.step()
        optim_wrapper.zero_grad()
        return {} if norm is None else {"grad_norm": norm}


def _wrapped(objective: Objective) -> nn.Module:
    return DistributedDataParallel(objective, find_unused_parameters=objective.may_leave_unused)


def to_device(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {k: to_device(v, device) for k, v in value.items()}
    return value.to(device) if hasattr(value, "to") else value


class StepLoop(BaseLoop):
    """Steps from where the checkpoint left off to the last. mmengine's own loop sleeps and rebuilds the loader."""

    def __init__(self, runner: Runner, dataloader: Any, steps: int) -> None:
        self._runner, self.dataloader = runner, dataloader
        self.steps = self.max_iters = steps
        self.iter, self.epoch, self.max_epochs = 0, 0, 1

    def run(self) -> nn.Module:
        runner, model = self.runner, self.runner.model
        runner.call_hook("before_train")
        self.iter = model.step
        stream = self.dataloader(self.iter)
        model.train()
        while self.iter < self.steps:
            batch = next(stream)
            runner.call_hook("before_train_iter", batch_idx=self.iter, data_batch=batch)
            outputs = model.train_step(batch, runner.optim_wrapper)
            self.iter += 1
            model.step = self.iter
            runner.call_hook("after_train_iter", batch_idx=self.iter, data_batch=batch, outputs=outputs)
        runner.call_hook("after_train")
        return model


class ScheduleHook(Hook):
    """Sets the learning rate of the step: a function of its number, so there is no state to resume."""

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        rate = learning_rate(runner.model.schedule, batch_idx)
        for group in runner.optim_wrapper.optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]


class CurveHook(Hook):
    """curve.csv: the mean loss since the last line. Cut back to the checkpoint on resume, so it never repeats a step."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def before_train(self, runner: Runner) -> None:
        if runner.model.place.rank or not self.path.exists():
            return
        with self.path.open(newline="") as stream:
            lines = list(csv.reader(stream)) or [["step", "loss", "lr", "grad_norm"]]  # killed before its first line
        kept = [line for line in lines[1:] if len(line) == 4 and int(line[0]) <= runner.model.step]
        write_atomically(self.path, "".join(",".join(line) + "\n" for line in [lines[0], *kept]))

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        model = runner.model
        if model.step % LOG_EVERY and model.step != model.schedule.steps:
            return
        mean = model.loss_sum / ((model.step - 1) % LOG_EVERY + 1)
        if model.place.world > 1:
            dist.all_reduce(mean)
        loss = float(mean)  # the one place where the CPU waits for the device
        model.loss_sum.zero_()
        if not math.isfinite(loss):
            raise RunFailed(f"the loss became {loss} before step {model.step}; a lower learning rate may help")
        if model.place.rank:
            return
        rate, norm = learning_rate(model.schedule, model.step - 1), float(outputs.get("grad_norm", math.nan))
        header = "" if self.path.exists() else "step,loss,lr,grad_norm\n"
        with self.path.open("a") as stream:
            stream.write(f"{header}{model.step},{loss:.6g},{rate:.6g},{norm:.6g}\n")
        if model.place.tensorboard:
            runner.visualizer.add_scalars({"loss": loss, "lr": rate, "grad_norm": norm}, step=model.step)


class CheckpointHook(Hook):
    """Saves every so many seconds, and when asked to stop. A kill at any moment leaves the last whole file."""

    priority = "VERY_LOW"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last = self.agreed = time.monotonic()
        self.since = self.next_agreement = 0  # steps, the same on every rank

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        model = runner.model
        place: Place = model.place
        place.progress(model.step, model.schedule.steps)
        due, stop = time.monotonic() - self.last >= place.checkpoint_seconds, place.stop.asked
        if place.world > 1:
            due, stop = (
                self._agree(due, stop, model.step, place) if model.step >= self.next_agreement else (False, False)
            )
        if due or stop:
            self.save(runner)
        if stop:
            raise Interrupted(f"stopped at step {model.step} of {model.schedule.steps}")

    def _agree(self, due: bool, stop: bool, step: int, place: Place) -> tuple[bool, bool]:
        """What one rank wants all do. Each time it costs a wait for the device: at every step only where steps are slow."""
        now = time.monotonic()
        flags = torch.tensor([due, stop, now - self.agreed], dtype=torch.float64, device=place.device)
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        wants_save, wants_stop, seconds = flags.tolist()
        a_step = seconds / max(1, step - self.since)
        self.agreed, self.since = now, step
        self.next_agreement = step + max(1, min(AGREE_STEPS, int(AGREE_SECONDS / max(a_step, 1e-6))))
        return bool(wants_save), bool(wants_stop)

    def save(self, runner: Runner) -> None:
        model, self.last = runner.model, time.monotonic()
        sums = model.loss_sum.reshape(1)
        if model.place.world > 1:  # every rank has a share of its own
            shares = [torch.empty_like(sums) for _ in range(model.place.world)]
            dist.all_gather(shares, sums)
            sums = torch.cat(shares)
        if model.place.rank == 0:
            state = {"step": model.step, "objective": model.objective.state_dict(),
                     "optimizer": runner.optim_wrapper.optimizer.state_dict(), "loss_sums": sums}  # fmt: skip
            save_weights(state, self.path)


class BenchRunner(Runner):
    """mmengine's Runner without what a run's folder records already, and with a log on file alone."""

    def _log_env(self, env_cfg: dict[str, Any]) -> None:
        """Not here: its collection of facts starts compilers; attempts/ holds ours."""

    def setup_env(self, env_cfg: dict[str, Any]) -> None:
        """Ranks and threads are the launcher's affair; only what Runner reads is set."""
        from mmengine.dist import get_dist_info

        self._rank, self._world_size = get_dist_info()
        self._timestamp = time.strftime("%Y%m%d_%H%M%S", time.gmtime())

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        logger = MMLogger.get_instance(self.experiment_name, logger_name="mmengine", log_level=logging.WARNING)
        logger.setLevel(logging.WARNING)
        return logger

    def build_visualizer(self, visualizer: Any = None) -> Any:
        """Only where TensorBoard is asked for: it costs most of a second of importing matplotlib."""
        return None if visualizer is None else super().build_visualizer(visualizer)

    def dump_config(self) -> None:
        """Not here: spec.json is the config."""

    def wrap_model(self, model_wrapper_cfg: Any, model: nn.Module) -> nn.Module:
        return model  # Trainee wraps its objective itself


def fit(
    objective: Objective,
    stream: Callable[[int], Iterator[Any]],
    schedule: ScheduleConfig,
    folder: Path,
    seed: int,
    place: Place,
    *,
    curve: Path | None = None,
    lr_scale: Callable[[str], float] = lambda name: 1.0,
) -> Path:
    """Train to the last step, going on from the checkpoint in `folder` if there is one. Returns the final weights."""
    if place.rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
    final = folder / "final.pt"
    if place.of_first_rank(final.exists()):
        objective.load_state_dict(load_weights(final))
        objective.to(place.device)
        return final
    for module in objective.modules():
        if isinstance(module, Encoder):
            module.recompute = place.recompute
    trainee = Trainee(objective, schedule, seed, place)
    groups = parameter_groups(objective, schedule.weight_decay, lr_scale)
    optimizer = torch.optim.AdamW(groups, lr=schedule.lr, betas=schedule.betas, fused=place.device.type == "cuda")
    checkpoint = folder / "checkpoint.pt"
    if place.of_first_rank(checkpoint.exists()):
        state = load_weights(checkpoint, place.device)
        objective.load_state_dict(state["objective"])
        optimizer.load_state_dict(state["optimizer"])
        trainee.step, trainee.loss_sum = state["step"], _share(state["loss_sums"], place)
        if place.of_first_rank(trainee.step) != trainee.step:
            raise RunFailed(
                f"{checkpoint}: another step on this rank than on the first; does its node see an older file?"
            )
    runner = _runner(trainee, optimizer, stream, schedule, folder, checkpoint, curve or folder / "curve.csv")
    runner.train()
    if place.rank == 0:
        save_weights(objective.state_dict(), final)
        checkpoint.unlink(missing_ok=True)
    if place.world > 1:
        dist.barrier()
    return final


def _share(sums: Tensor, place: Place) -> Tensor:
    """This rank's part of the loss since the last logged step; of a training by another number of ranks, all on the first."""
    if len(sums) == place.world:
        return sums[place.rank].clone()
    return sums.sum() if place.rank == 0 else torch.zeros_like(sums[0])


def _runner(
    trainee: Trainee,
    optimizer: torch.optim.Optimizer,
    stream: Any,
    schedule: Any,
    folder: Path,
    checkpoint: Path,
    curve: Path,
) -> Runner:
    tensorboard = {"type": "Visualizer", "vis_backends": [{"type": "TensorboardVisBackend"}]}
    unused = ("runtime_info", "timer", "sampler_seed", "logger", "param_scheduler", "checkpoint")
    return BenchRunner(
        model=trainee,
        work_dir=str(folder),
        train_dataloader=stream,
        train_cfg={"type": StepLoop, "steps": schedule.steps},
        optim_wrapper=OptimWrapper(optimizer),
        default_hooks=dict.fromkeys(unused),
        custom_hooks=[ScheduleHook(), CurveHook(curve), CheckpointHook(checkpoint)],
        visualizer=tensorboard if trainee.place.tensorboard else None,
        experiment_name=f"{folder.parent.name}-{folder.name}-{time.monotonic_ns()}",
    )


def save_weights(state: Any, path: Path) -> None:
    """torch.save, whole or not at all; into a folder that is there: one that vanished is not made again."""
    path.parent.stat()
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(path, buffer.getvalue())


def load_weights(path: Path, device: torch.device | str = "cpu", *, lazily: bool = False) -> dict[str, Any]:
    """What `save_weights` wrote; `lazily` reads no tensor before it is used."""
    try:
        return torch.load(path, map_location=device, weights_only=True, mmap=lazily)
    except Exception as error:  # torch has many for a file that is none of its own
        raise UserError(f"{path}: not readable as weights ({error}). Move it away to have them made again.") from error
