"""A request -> the sbatch script of a job, through submitit."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

from mimbench.errors import UserError
from mimbench.inert import unprintable
from mimbench.slurm.profile import Request
from mimbench.store.results import Store


def comment_of(store: Store) -> str:
    """On every job, to recognize those of this results folder. It becomes a line of the script."""
    root = str(store.root.resolve())
    if unprintable(root) or len(root.splitlines()) > 1:
        raise UserError(f"--results {root!r}: jobs need a path on one line, without control characters.")
    return f"mimbench:{root}"


def folder_of(store: Store) -> Path:
    """Scripts, pickles (of strings only), stdout and stderr of jobs."""
    return store.root.resolve() / "slurm" / "%j"


def executor_of(store: Store, request: Request, name: str, more: dict[str, Any] | None = None) -> Any:
    """submitit's executor for jobs of this name; `more` holds further sbatch parameters."""
    from submitit.slurm.slurm import SlurmExecutor

    executor = SlurmExecutor(folder_of(store), max_num_timeout=request.max_requeues, python=_python(request))
    executor._internal_update_parameters(**_parameters(store, request, name, more))
    return executor


def script(store: Store, request: Request, name: str, more: dict[str, Any], tasks: int) -> str:
    """The text of the script as it would be submitted."""
    from submitit.slurm.slurm import _make_sbatch_string

    folder, parameters = folder_of(store), _parameters(store, request, name, more)
    command = f"{_python(request)} -u -m submitit.core._submit {shlex.quote(str(folder))}"
    count = tasks if tasks > 1 else None
    return str(_make_sbatch_string(command=command, folder=folder, map_count=count, **parameters))


def _parameters(store: Store, request: Request, name: str, more: dict[str, Any] | None) -> dict[str, Any]:
    parameters = {
        "job_name": name, "partition": request.partition, "account": request.account, "qos": request.qos,
        "nodes": request.nodes, "ntasks_per_node": request.ranks_per_node, "cpus_per_task": request.cpus,
        "gpus_per_node": request.gpus or None, "mem": f"{round(request.memory_gb * 1024)}M" if request.memory_gb else None,
        "time": max(1, round(request.hours * 60)), "signal_delay_s": request.grace_seconds,
        "array_parallelism": request.max_parallel or 10_000, "comment": comment_of(store),
        "setup": list(request.setup) or None,
        # the death of one rank ends the job at once; since 22.05 srun does not inherit sbatch's CPUs per task
        "srun_args": ["--kill-on-bad-exit=1", f"--cpus-per-task={request.cpus}", *request.srun],
        "additional_parameters": {"requeue": True, "kill-on-invalid-dep": "yes", **request.extra, **(more or {})},
    }  # fmt: skip
    return {key: value for key, value in parameters.items() if value is not None}


def _python(request: Request) -> str:
    """Ignores signals until the job handles them: by default they would kill it."""
    start = request.python or shlex.quote(sys.executable)
    command = f'trap "" TERM USR1 USR2; exec {start} "$@"'
    return f"sh -c {shlex.quote(command)} mimbench"
