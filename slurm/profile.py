"""A profile: the resources that jobs request, from a YAML file in `profiles/` or of the user's own.

It does not change what is computed, with one exception: with GPUs for pre-training, `precision: auto` is bf16.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from mimbench.config.coerce import dataclass_from
from mimbench.config.merge import read_yaml
from mimbench.config.ranges import Count, Positive, at_least
from mimbench.errors import UserError, unknown
from mimbench.kinds import KINDS

RESERVED = (  # sbatch parameters that mimbench sets, most of them from keys of a profile
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
    nodes: Count = 1
    gpus: Annotated[int, at_least(0)] = 0  # per node; one process (rank) per GPU
    ranks: Count | None = None  # processes per node; None: one per GPU, or one
    cpus: Count = 1  # per process
    memory_gb: Annotated[float, at_least(0.1)] | None = None  # per node; None: the cluster's default
    hours: Positive = 24.0
    max_parallel: Count | None = None  # running tasks of one array; None: no limit
    grace_seconds: Count = 90  # between the signal and the time limit
    max_requeues: Count = 50
    max_stalled_requeues: Count = 3  # in a row without one more step, before the run is failed
    setup: tuple[str, ...] = ()  # shell lines before the job: modules, environments
    srun: tuple[str, ...] = ()  # more arguments of srun, such as a container's
    python: str | None = None  # the command that starts Python, such as `apptainer exec image.sif python`
    extra: dict[str, Any] = field(default_factory=dict)  # more sbatch parameters, by their long names
    loader_workers: Annotated[int, at_least(0)] = 0
    micro_batch: Count | None = None  # images per forward pass
    checkpoint_seconds: Positive = 600.0
    activation_checkpointing: bool = False  # less memory, slower

    @property
    def ranks_per_node(self) -> int:
        return self.ranks if self.ranks is not None else max(1, self.gpus)

    @property
    def world(self) -> int:
        return self.nodes * self.ranks_per_node


@dataclass(frozen=True)
class Profile:
    name: str
    given: str  # the name or path after `slurm:`
    requests: dict[str, Request]

    def of(self, kind: str) -> Request:
        return self.requests[kind]


def load_profile(name: str) -> Profile:
    """By path, or by name: first in the user's own folder, then among those that ship."""
    path = _find(name)
    raw = read_yaml(path)
    kinds = _mapping(raw.pop("kinds", None), f"{path}: kinds", "kinds of run to the keys that differ for them")
    for kind in kinds:
        if kind not in KINDS:
            raise unknown(f"{path}: kinds", "kind of run", kind, KINDS)
    return Profile(path.stem, name, {kind: _request(raw, kinds.get(kind), kind, path) for kind in KINDS})


def _mapping(value: Any, place: str, what: str) -> dict[str, Any]:
    if not isinstance(value or {}, dict):
        raise UserError(f"{place}: must map {what}, not {value!r}.")
    return value or {}


def _request(common: dict[str, Any], own: Any, kind: str, path: Path) -> Request:
    """The common keys, and over them those under `kinds.KIND`."""
    place = f"{path}: kinds.{kind}" if own else f"{path}"
    own = _mapping(own, place, "keys to values")
    extra: dict[str, Any] = {}
    for raw in (common, own):
        given = _mapping(raw.get("extra"), f"{place}: extra", "long names of sbatch parameters to values")
        extra |= {str(key).lstrip("-").replace("_", "-"): value for key, value in given.items()}
    request = dataclass_from(Request, {**common, **own, "extra": extra}, place)
    ranks = KINDS[kind].ranks
    if (ranks == "one" or (ranks == "gpu" and not request.gpus)) and not {"nodes", "ranks"} & own.keys():
        request = dataclasses.replace(request, nodes=1, ranks=1, gpus=min(request.gpus, 1))
    _check_lines(request, place)
    _check(request, kind, place)
    return request


def _check_lines(request: Request, place: str) -> None:
    """No value but `setup` may add a line to the sbatch script."""
    own = {name: str(value) for name, value in vars(request).items() if isinstance(value, str)}
    own |= {f"srun.{index}": words for index, words in enumerate(request.srun)}
    own |= {f"extra.{name}": f"{name}={value}" for name, value in request.extra.items()}
    for name, text in own.items():
        if len(f"{text}.".splitlines()) > 1:
            raise UserError(f"{place}: {name!r}: must be one line, not {text!r}.")


def _check(request: Request, kind: str, place: str) -> None:
    """What depends on more than one key."""
    several, ranks = request.world > 1, KINDS[kind].ranks
    if request.gpus and request.ranks_per_node != request.gpus:
        raise UserError(
            f"{place}: ranks: must be {request.gpus} with {request.gpus} GPUs (one process per GPU), "
            f"not {request.ranks_per_node}."
        )
    if several and ranks == "one":
        raise UserError(f"{place}: nodes and ranks must be 1 for {kind}: it runs in one process.")
    if several and ranks == "gpu" and not request.gpus:
        raise UserError(f"{place}: {kind} on several ranks needs GPUs (they share its batch norm).")
    if request.hours * 3600 <= request.grace_seconds + 30:
        raise UserError(
            f"{place}: hours: {request.hours:g} h is too short: the signal comes {request.grace_seconds} s "
            "(grace_seconds) before the limit."
        )
    for name in request.extra:
        if name in RESERVED:
            raise UserError(
                f"{place}: extra.{name}: is set by mimbench, or has a key of its own; reserved: {', '.join(RESERVED)}."
            )


def folders() -> list[Path]:
    """The folders of profiles, the user's own first."""
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return [config / "mimbench" / "profiles", Path(__file__).parent / "profiles"]


def known() -> list[str]:
    return sorted({path.stem for folder in folders() for path in folder.glob("*.yaml")})


def _find(name: str) -> Path:
    own = [Path(name)] if name.endswith(".yaml") or "/" in name else []
    for path in [*own, *(folder / f"{name}.yaml" for folder in folders())]:
        if path.is_file():
            return path
    searched = " and ".join(map(str, folders()))
    error = unknown("--on slurm", "profile", name, known())
    raise UserError(f"{error} Searched: {searched}. A path ending in .yaml is used as it is.")
