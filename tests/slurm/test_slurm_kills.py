"""On a real SLURM: jobs that are killed at random in every way give the same table as without kills."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time

import pytest
from commands import mimbench, new_results
from slurm_lab import WAITING, lasting, run_grid, settle, slurm, states, tables, write_profile

from mimbench.store.results import Store

pytestmark = [pytest.mark.slurm, pytest.mark.slow]

LONG = (*WAITING, "--set", "protocols.finetune.epochs=40")


def _running(results):
    """(folder, owner) of the runs that a job holds."""
    found = []
    for folder in Store(results).all_runs():
        owner = folder.owner()
        if owner and not folder.done() and owner.get("job"):
            found.append((folder, owner))
    return found


def preempt(owner):
    words = ["sbatch", "--partition=main", "--exclusive", "--nodes=1", f"--nodelist={owner['host']}"]
    slurm(*words, "--output=/dev/null", "--wrap=sleep 5")


KILLS = 12  # twice in every way

WAYS = {  # to end a job
    "signal": lambda owner: slurm("scancel", "--signal=USR2", owner["job"]),
    "terminate": lambda owner: slurm("scancel", "--signal=TERM", owner["job"]),
    "requeue": lambda owner: slurm("scontrol", "requeue", owner["job"]),
    "kill": lambda owner: os.kill(owner["pid"], signal.SIGKILL),
    "limit": lambda owner: slurm("scontrol", "update", f"JobId={owner['job']}", "TimeLimit=1"),
    "preempt": preempt,
}


def test_kills_at_random_moments_do_not_change_the_table(cluster, results, tmp_path, rendered, with_finetuning):
    seed = random.randrange(10**6)
    print(f"seed: {seed}")
    rng = random.Random(seed)
    clean = new_results(tmp_path / "clean", rendered)
    assert run_grid(clean, "local:2", *LONG, grid=with_finetuning).returncode == 0
    # a time limit is a minute at least; with the signal 30 s before it, it also stops runs of half a minute
    profile = write_profile(
        tmp_path, partition="low", max_requeues=500, max_stalled_requeues=50, grace_seconds=30, **lasting(30)
    )
    assert run_grid(results, profile, *LONG, grid=with_finetuning).returncode == 0
    struck, hit = [], set()
    end = time.monotonic() + 900
    while time.monotonic() < end:
        found = states(results)
        if set(found.values()) == {"done"}:
            break
        running = [r for r in _running(results) if found.get(r[0].name) == "running"]
        for folder, owner in running if len(struck) < KILLS else []:
            attempt = (folder.name, len(folder.attempts()))
            way = list(WAYS)[len(struck) % len(WAYS)]
            time.sleep(rng.uniform(0, 2))
            if attempt not in hit and folder.owner() == owner:
                with contextlib.suppress(ProcessLookupError):
                    WAYS[way](owner)
                    struck.append((way, folder.kind))
                    if way != "limit":  # it comes later, or never
                        hit.add(attempt)
        moving = {"running", "queued"} & set(found.values())
        if "failed" in found.values() or not moving:
            retried = mimbench("retry", "--results", results, "--on", profile)
            # a child whose parent ends at this moment is refused: retry again
            refused = moving and retried.returncode == 1 and "may just have ended" in retried.stderr
            assert retried.returncode == 0 or refused, retried.stderr
        time.sleep(0.5)
    found = settle(results)
    assert set(found.values()) == {"done"}, mimbench("status", "--results", results).stdout
    print(struck)
    assert len(struck) >= KILLS
    attempts = sum(len(f.attempts()) for f in Store(results).all_runs())
    assert attempts - len(found) >= KILLS // 2  # a signal in the last moment of a run changes nothing
    assert {way for way, _ in struck} == set(WAYS)
    assert tables(results) == tables(clean)
    for folder in (results / "runs").iterdir():  # no finished run was started again
        done = (folder / "result.json").stat().st_mtime
        assert all(p.stat().st_mtime <= done for p in (folder / "attempts").iterdir())
    for path in (clean / "runs").glob("*/curve.csv"):
        assert path.read_bytes() == (results / "runs" / path.parent.name / "curve.csv").read_bytes()
