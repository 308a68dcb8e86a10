"""Facts of a run: versions, git, host, processor, memory. Recorded beside the results, never hashed."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import os
import platform
import resource
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

PACKAGES = ("mimbench", "torch", "torchvision", "timm", "onedl-mmengine", "onedl-mmcv", "onedl-mmsegmentation", "numpy",
            "submitit")  # fmt: skip


@functools.cache
def facts() -> dict[str, Any]:
    """What does not change while this process lives."""
    return {"host": socket.gethostname(), "cpu": _cpu(), "cores": os.cpu_count(), "python": platform.python_version(),
            "versions": versions(), "git": git(), "slurm_job": slurm_job()}  # fmt: skip


def slurm_job() -> str | None:
    """The id of the SLURM job this process runs in, as squeue writes it: 17, or 17_3 of an array."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def git() -> dict[str, Any] | None:
    """The commit of the checkout this code runs from, and whether it was changed since; None for an installed wheel."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None

    def ask(*words: str) -> str:
        # without locks: a process that is killed while git looks would leave one behind, and the checkout locked
        command = ["git", "--no-optional-locks", "-C", str(root), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()

    try:
        changed = ask("status", "--porcelain", "--", "mimbench", "registries", "slurm", "configs")
        return {"sha": ask("rev-parse", "HEAD"), "dirty": bool(changed)}
    except (OSError, subprocess.TimeoutExpired):
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def peak_memory() -> int:
    """Bytes of this process at its largest."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def bf16_pays() -> bool:
    """Whether bf16 is fast here: a GPU that has it, or a CPU with its own instructions for it."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
