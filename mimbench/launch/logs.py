"""The logs of a run: its own, and the stdout and stderr of its job."""

from __future__ import annotations

from pathlib import Path

from mimbench.store.results import RunFolder

NOISE = ("srun: ", "slurmstepd-")  # SLURM's last lines, which follow those that name the cause


def log_files(folder: RunFolder, job: str | None) -> list[Path]:
    """The run's own log, those of its other ranks, then the job's output; that comes first if the job never began the run."""
    paths = sorted(folder.work.glob("log*.txt"), key=lambda path: (path.name != "log.txt", path.name))
    if job:
        output = job_output(job, folder.path.parent.parent)
        began = any(attempt.get("slurm_job") == job for attempt in folder.attempts())
        paths = [*paths, *output] if began else [*output, *paths]
    return [path for path in paths if path.exists() and path.stat().st_size]


def job_output(job: str, results: Path) -> list[Path]:
    """stderr and stdout of a job, as submitit names the files."""
    own = results / "slurm" / job
    return [own / f"{job}_0_log.err", own / f"{job}_0_log.out"]


def last_lines(paths: list[Path], lines: int) -> list[str]:
    """Of the first log that has any, without SLURM's own."""
    for path in paths:
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        if kept := [line for line in text.rstrip().splitlines() if not line.startswith(NOISE)]:
            return kept[-lines:]
    return []
