"""`make bench-slurm`: the time to submit, to start and to recover from a preemption, on the cluster of SLURM_CONF.

On the trial cluster (slurm/cluster/cluster.sh) a requeued job restarts after 5 s; SLURM's default is 120 s.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mimbench.store.results import RunFolder, Store, read_progress

ROOT = Path(__file__).parent.parent


def mimbench(*words: str, absent: str = "Traceback") -> float:
    """Run a command and return its seconds."""
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "mimbench", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert absent not in done.stdout, done.stdout
    return time.monotonic() - begun


def until(what: Callable[[], Any], seconds: float = 120) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := what():
            return value
        time.sleep(0.05)
    raise SystemExit(f"not true after {seconds} s")


def start_and_preemption(profile: str, results: Path) -> None:
    """One long pre-training: the time to its first step, and from a preemption until it has made up for it."""
    words = ("run", "grid", str(ROOT / "tests" / "short_grid.yaml"), "--only", "pixels", "--set", "schedule.steps=1000000",
             "--on", profile, "--results", str(results))  # fmt: skip
    begun = time.monotonic()
    command = mimbench(*words)
    folder: RunFolder = until(lambda: next((f for f in Store(results).all_runs() if f.kind == "pretrain"), None))
    until(lambda: read_progress(folder.work))
    print(
        f"from the command to the first steps: {time.monotonic() - begun:.1f} s, of which the command {command:.1f} s"
    )
    for _ in range(3):
        time.sleep(3)
        step = (read_progress(folder.work) or {})["step"]
        starts, begun = len(folder.attempts()), time.monotonic()
        subprocess.run(["scancel", "--signal=USR2", folder.submission()["job"]], check=True)
        until(lambda starts=starts: len(folder.attempts()) > starts)
        until(lambda step=step: (read_progress(folder.work) or {"step": 0})["step"] > step + 100)
        print(f"preemption: {time.monotonic() - begun:.1f} s until it was 100 steps further than before")
    mimbench("cancel", "--results", str(results))


def thousand_runs(profile: str, results: Path) -> None:
    """Submit the ablations with 29 seeds, 1,015 runs, and cancel them."""
    there = ("--results", str(results))
    words = ("run", "grid", "ablations", "--scale", "smoke", "--seeds", "29", "--on", profile, *there)
    print(f"submitting 1,015 runs: {mimbench(*words):.1f} s; again, all queued: "
          f"{mimbench(*words, absent='submitted'):.1f} s; "
          f"status: {mimbench('status', *there):.1f} s; cancel: {mimbench('cancel', *there):.1f} s")  # fmt: skip


if __name__ == "__main__":
    # cancelled jobs may still be ending
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as work:
        trial = {"partition": "main", "memory_gb": 1.5, "hours": 1, "grace_seconds": 15, "max_requeues": 99}
        calm = {**trial, "max_parallel": 1}  # few start meanwhile: the cores are free for submitting
        for name, profile in (("trial", trial), ("calm", calm)):
            (Path(work) / f"{name}.yaml").write_text(json.dumps(profile))
        start_and_preemption(f"slurm:{work}/trial.yaml", Path(work) / "one")
        thousand_runs(f"slurm:{work}/calm.yaml", Path(work) / "many")
