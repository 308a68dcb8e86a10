"""What a cluster is asked for: a YAML file in `profiles/` or of the user's own.

None of it changes what is computed but one thing: where a pre-training is given GPUs, `precision: auto` is bf16.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mimbench.config.merge import read_yaml
from mimbench.config.schema import dataclass_from
from mimbench.errors import UserError, unknown

KINDS = ("tokenizer", "pretrain", "finetune", "segmentation", "linear_probe", "knn")
ALONE = ("linear_probe", "knn")  # nothing in them is cut into ranks
OURS = (  # of sbatch's parameters: set by mimbench, most of them through keys of their own
    "account", "array", "begin", "chdir", "comment", "cpus-per-task", "dependency", "error", "gpus", "gpus-per-node",
    "gpus-per-task", "hold", "job-name", "kill-on-invalid-dep", "mem", "no-requeue", "nodes", "ntasks", "ntasks-per-node",
    "open-mode", "output", "partition", "qos", "requeue", "signal", "time", "wrap",
)  # fmt: skip


@dataclass(frozen=True)
class Request:
    """The resources and settings of one kind of run."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    nodes: int = 1
    gpus: int = 0  # a node; one process (rank) a GPU
    ranks: int | None = None  # processes a node; None: one a GPU, or one
    cpus: int = 1  # a process
    memory_gb: float | None = None  # a node; None: the cluster's default
    hours: float = 24.0
    throttle: int | None = None  # tasks of one array at a time; None: as many as the cluster lets
    grace_seconds: int = 90  # from the signal before a time limit to the limit
    max_requeues: int = 50
    fruitless: int = 3  # requeues in a row without one step's progress before the run is failed
    setup: tuple[str, ...] = ()  # shell lines before the job: modules, environments
    srun: tuple[str, ...] = ()  # more arguments of srun, such as a container's
    python: str | None = None  # the command that starts Python, such as `apptainer exec image.sif python`
    extra: dict[str, Any] = field(default_factory=dict)  # more sbatch parameters, by their long names
    loader_workers: int = 0
    micro_batch: int | None = None  # images of one forward pass
    checkpoint_seconds: float = 600.0
    recompute: bool = False  # activations in the backward pass, for what does not fit otherwise

    @property
    def ranks_a_node(self) -> int:
        return self.ranks if self.ranks is not None else max(1, self.gpus)

    @property
    def world(self) -> int:
        return self.nodes * self.ranks_a_node


@dataclass(frozen=True)
class Profile:
    name: str
    given: str  # a name or path, as it was typed after `slurm:`
    requests: dict[str, Request]

    def of(self, kind: str) -> Request:
        return self.requests[kind]


def load_profile(name: str) -> Profile:
    """By path, or by name: in the user's own folder, then among those that ship."""
    path = _find(name)
    raw = read_yaml(path)
    kinds = raw.pop("kinds", {}) or {}
    if not isinstance(kinds, dict):
        raise UserError(f"{path}: kinds: must map kinds of run to what differs for them.")
    for kind in kinds:
        if kind not in KINDS:
            raise unknown(f"{path}: kinds", "kind of run", str(kind), KINDS)
    requests = {}
    for kind in KINDS:
        own = kinds.get(kind) or {}
        if not isinstance(own, dict):
            raise UserError(f"{path}: kinds.{kind}: must be a mapping of what differs for this kind of run.")
        merged = {**raw, **own, "extra": {**_mapping(raw, path, ""), **_mapping(own, path, f"kinds.{kind}.")}}
        place = f"{path}: kinds.{kind}" if own else f"{path}"
        requests[kind] = _checked(_request(merged, kind, own, place), kind, own, place)
    return Profile(path.stem, name, requests)


def _mapping(raw: dict[str, Any], path: Path, prefix: str) -> dict[str, Any]:
    extra = raw.get("extra") or {}
    if not isinstance(extra, dict):
        raise UserError(f"{path}: {prefix}extra: must map long names of sbatch parameters to values.")
    return {str(k).lstrip("-").replace("_", "-"): v for k, v in extra.items()}


def _request(merged: dict[str, Any], kind: str, own: dict[str, Any], place: str) -> Request:
    request = dataclass_from(Request, merged, place)
    alone = kind in ALONE or (kind == "segmentation" and not request.gpus)
    if alone and not {"nodes", "ranks"} & own.keys():
        request = dataclasses.replace(request, nodes=1, ranks=1, gpus=min(request.gpus, 1))
    return request


def _checked(request: Request, kind: str, own: dict[str, Any], place: str) -> Request:
    for key in ("nodes", "cpus", "max_requeues", "fruitless", "grace_seconds"):
        if getattr(request, key) < 1:
            raise UserError(f"{place}: {key}: must be at least 1, not {getattr(request, key)}.")
    for key in ("ranks", "throttle", "memory_gb", "micro_batch", "hours", "checkpoint_seconds"):
        value = getattr(request, key)
        if value is not None and value <= 0:
            raise UserError(f"{place}: {key}: must be more than 0, not {value}.")
    if request.gpus < 0 or request.loader_workers < 0:
        raise UserError(f"{place}: gpus and loader_workers: must not be negative.")
    if request.gpus and request.ranks_a_node != request.gpus:
        raise UserError(f"{place}: ranks: {request.ranks_a_node} on {request.gpus} GPUs; there is one process a GPU.")
    if kind in ALONE and request.world > 1:
        raise UserError(f"{place}: a {kind} runs in one process; nodes and ranks must be 1 there.")
    if kind == "segmentation" and request.world > 1 and not request.gpus:
        raise UserError(f"{place}: segmentation on several ranks needs GPUs (its batch norm is shared by ranks).")
    if request.hours * 3600 <= request.grace_seconds + 30:
        raise UserError(
            f"{place}: hours: {request.hours:g} h leave no time before the signal, which comes {request.grace_seconds} s "
            "(grace_seconds) before the limit."
        )
    for name in request.extra:
        if name in OURS:
            raise UserError(
                f"{place}: extra.{name}: is set by mimbench itself, or has a key of its own; not allowed: {', '.join(OURS)}."
            )
    return request


def folders() -> list[Path]:
    """Where profiles are looked for: the user's own first."""
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return [config / "mimbench" / "profiles", Path(__file__).parent / "profiles"]


def known() -> list[str]:
    return sorted({path.stem for folder in folders() for path in folder.glob("*.yaml")})


def _find(name: str) -> Path:
    candidates = [Path(name)] if name.endswith(".yaml") or "/" in name else []
    candidates += [folder / f"{name}.yaml" for folder in folders()]
    for path in candidates:
        if path.is_file():
            return path
    where = " and ".join(str(f) for f in folders())
    error = unknown("--on slurm", "profile", name, known())
    raise UserError(f"{error} Profiles are looked for in {where}; a path ending in .yaml is taken as it is.")
