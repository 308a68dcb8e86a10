"""On a real SLURM: a grid that is submitted once gives the same table, also with time limits."""

from __future__ import annotations

import json
import re
import time

import pytest
from commands import mimbench, mimbench_process, new_results
from slurm_lab import (
    GRID,
    STEPS,
    run_grid,
    settle,
    slurm,
    states,
    tables,
    until,
    waiting_run,
    write_profile,
)

from mimbench.config.grid import load_grid
from mimbench.launch.queue import QueueUnavailable
from mimbench.plan.graph import make_plan
from mimbench.plan.record import prepare
from mimbench.slurm import queue
from mimbench.slurm.profile import load_profile
from mimbench.slurm.submit import submit
from mimbench.store.results import Store

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, rendered, with_finetuning):
    """The results of the grid on this machine, without a cluster."""
    results = new_results(tmp_path_factory.mktemp("local") / "results", rendered)
    done = run_grid(results, "local:2", grid=with_finetuning)
    assert done.returncode == 0, done.stderr
    return results


def test_a_grid_on_slurm_gives_the_same_table_as_on_one_machine(
    cluster, undisturbed, results, tmp_path, with_finetuning
):
    profile = write_profile(tmp_path, kinds={"finetune": {"max_parallel": 1}})
    done = run_grid(results, profile, grid=with_finetuning)
    assert done.returncode == 0, done.stderr
    arrays = dict(re.findall(r"submitted (\w+): job (\d+)", done.stdout))
    assert set(arrays) == {"tokenizer", "pretrain", "features", "linear_probe", "finetune", "knn"}
    most = 0
    while {"running", "queued"} & set(states(results).values()):
        running = slurm("squeue", "-h", "-r", "--states=R", "-o", "%F").stdout.split()
        most = max(most, running.count(arrays["finetune"]))
        time.sleep(0.3)
    assert most == 1
    assert set(settle(results).values()) == {"done"}
    assert tables(results) == tables(undisturbed)
    again = run_grid(results, profile, grid=with_finetuning)
    assert "nothing to submit" in again.stderr
    # the last job wrote the report
    assert (results / "reports" / "short.smoke" / "index.html").exists()
    costs = [json.loads(p.read_text()) for p in (results / "runs").glob("*/cost.json")]
    assert {c["host"] for c in costs} <= {"n1", "n2", "n3"}


def test_each_task_waits_for_its_own_parents_only(cluster, results, tmp_path):
    """Evaluations are blocked if their pre-training fails; all other runs finish."""
    assert run_grid(results, "local:2", "--only", "scratch").returncode == 0
    done = run_grid(results, write_profile(tmp_path), "--set", "schedule.lr=1e30", "--set", "schedule.clip=null")
    assert done.returncode == 0, done.stderr
    found = settle(results)
    by_kind = {kind: {s for n, s in found.items() if n.startswith(kind)} for kind in ("tokenizer", "pretrain", "knn")}
    assert by_kind["tokenizer"] == {"done"}
    assert by_kind["pretrain"] == {"failed"}
    assert by_kind["knn"] == {"done", "blocked"}  # scratch has no parent
    status = mimbench("status", "--results", results).stdout
    assert "Diverged: the loss became" in status
    blocked = next(n for n, s in found.items() if s == "blocked")
    why = mimbench("why", blocked, "--results", results).stdout
    assert "blocked" in why
    assert "the loss became" in why
    assert "blocked" in mimbench("why", blocked.partition("-")[2][:8], "--results", results).stdout


def test_two_submissions_at_once_execute_each_run_once(cluster, results, tmp_path):
    words = ("run", "grid", GRID, "--results", results, "--on", write_profile(tmp_path))
    both = [mimbench_process(*words) for _ in range(2)]
    printed = [p.communicate(timeout=120) for p in both]
    assert [p.returncode for p in both] == [0, 0], printed
    assert sum("submitted" in out for out, _ in printed) == 1
    assert any("already queued or running" in out for out, _ in printed)
    assert set(settle(results).values()) == {"done"}
    attempts = [len(list(f.glob("attempts/*"))) for f in (results / "runs").iterdir()]
    assert set(attempts) == {1}


def test_queued_runs_are_not_submitted_again(cluster, results, tmp_path):
    """Nor with 24 tasks, of which squeue shows 23 if half of them have dependencies."""
    blocker = slurm(
        "sbatch", "--parsable", "--exclusive", "--nodes=3", "-o/dev/null", "--wrap=sleep 600"
    ).stdout.strip()
    words = ("--only", "beit", "--only", "scratch", "--seeds", "12")
    try:
        done = run_grid(results, write_profile(tmp_path), *words)
        assert done.returncode == 0, done.stderr
        again = run_grid(results, write_profile(tmp_path), *words)
        assert again.returncode == 0, again.stderr
        assert "submitted" not in again.stdout
        assert f"{len(states(results))} runs already queued or running" in again.stdout
        assert set(states(results).values()) == {"queued"}
        assert mimbench("cancel", "--results", results).returncode == 0
    finally:
        slurm("scancel", blocker)
    assert settle(results).keys() == states(results).keys()


def test_a_submission_that_died_before_its_release_is_cancelled_and_repeated(cluster, results, tmp_path, monkeypatch):
    plan, store = make_plan(load_grid(GRID, only=("pixels",))), Store(results)
    profile = load_profile(write_profile(tmp_path).partition(":")[2])
    prepare(plan, store)

    def unavailable(array):
        raise QueueUnavailable("scontrol did not answer")

    with monkeypatch.context() as patched:
        patched.setattr(queue, "release", unavailable)
        outcome = submit(plan.runs, ("short", "smoke"), store, profile, {})
    assert not outcome.jobs
    assert any("held and not released" in why for why in outcome.refused.values())
    assert len(queue.mine(f"mimbench:{results}")) == 1  # the pre-training; its children were not submitted
    outcome = submit(plan.runs, ("short", "smoke"), store, profile, {})
    assert set(outcome.jobs) == set(plan.runs)
    assert set(settle(results).values()) == {"done"}


# time limits


def test_a_run_longer_than_its_time_limit_is_requeued_until_it_is_done(cluster, results, tmp_path):
    """One minute per job, the shortest limit in SLURM; its children wait for the last one."""
    folder = waiting_run(results, tmp_path, 50, hours=1 / 60, checkpoint_seconds=1000)
    assert set(settle(results).values()) == {"done"}
    found = [a["found"] for a in folder.attempts()]
    assert len(found) >= 2
    assert all("at step" in words for (words,) in found[1:])
    assert (folder.work / "log.txt").read_text().count("saved, stopped and requeued") == len(found) - 1
    steps = [int(line.split(",")[0]) for line in (folder.path / "curve.csv").read_text().splitlines()[1:]]
    assert steps == sorted(set(steps))


def test_a_run_that_is_requeued_without_one_more_step_fails(cluster, results, tmp_path):
    """Its first step takes longer than its time limit."""
    folder = waiting_run(results, tmp_path, 120 * STEPS, max_stalled_requeues=2, grace_seconds=2)
    for attempt in (1, 2):
        until(lambda attempt=attempt: len(folder.attempts()) >= attempt)
        slurm("scancel", "--signal=USR2", folder.submission()["job"])
    found = settle(results)
    assert found[folder.name] == "failed"
    assert "requeued without a new checkpoint" in (folder.work / "log.txt").read_text()
    status = mimbench("status", "--results", results).stdout
    assert "requeued 2 times in a row without one more step (each began with nothing)" in status
