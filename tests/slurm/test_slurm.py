"""Grids on a real SLURM: the same table, submitted once, stopped by time limits."""

from __future__ import annotations

import json
import re
import time

import pytest
from commands import mimbench, mimbench_process
from slurm_lab import (
    GRID,
    STEPS,
    new_results,
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
from mimbench.launch.local import prepare
from mimbench.plan.graph import make_plan
from mimbench.slurm import queue
from mimbench.slurm.profile import load_profile
from mimbench.slurm.submit import submit
from mimbench.store.results import Store

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, rendered, with_finetuning):
    """The grid of these tests on this machine, without a cluster."""
    results = new_results(tmp_path_factory.mktemp("local") / "results", rendered)
    done = run_grid(results, "local:2", grid=with_finetuning)
    assert done.returncode == 0, done.stderr
    return results


def test_a_grid_submitted_at_once_gives_the_same_table_as_on_one_machine(
    cluster, undisturbed, results, tmp_path, with_finetuning
):
    profile = write_profile(tmp_path, kinds={"finetune": {"throttle": 1}})
    done = run_grid(results, profile, grid=with_finetuning)
    assert done.returncode == 0, done.stderr
    arrays = dict(re.findall(r"submitted (\w+): job (\d+)", done.stdout))
    assert set(arrays) == {"tokenizer", "pretrain", "finetune", "knn"}
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
    # a last job wrote the report without anybody's asking
    assert (results / "reports" / "short.smoke" / "index.html").exists()
    costs = [json.loads(p.read_text()) for p in (results / "runs").glob("*/cost.json")]
    assert {c["host"] for c in costs} <= {"n1", "n2", "n3"}


def test_each_task_waits_for_its_own_parents_alone(cluster, results, tmp_path):
    """The row whose pre-training fails loses its evaluations; every other row is finished, and nothing hangs."""
    assert run_grid(results, "local:2", "--only", "scratch").returncode == 0
    done = run_grid(results, write_profile(tmp_path), "--set", "schedule.lr=1e30", "--set", "schedule.clip=null")
    assert done.returncode == 0, done.stderr
    found = settle(results)
    by_kind = {kind: {s for n, s in found.items() if n.startswith(kind)} for kind in ("tokenizer", "pretrain", "knn")}
    assert by_kind["tokenizer"] == {"done"}
    assert by_kind["pretrain"] == {"failed"}
    assert by_kind["knn"] == {"done", "blocked"}  # scratch has no parent
    status = mimbench("status", "--results", results).stdout
    assert "RunFailed: the loss became" in status
    blocked = next(n for n, s in found.items() if s == "blocked")
    why = mimbench("why", blocked, "--results", results).stdout
    assert "blocked" in why
    assert "the loss became" in why
    assert "blocked" in mimbench("why", blocked.partition("-")[2][:8], "--results", results).stdout


def test_two_submissions_at_once_do_each_run_once(cluster, results, tmp_path):
    words = ("run", "grid", GRID, "--results", results, "--on", write_profile(tmp_path))
    both = [mimbench_process(*words) for _ in range(2)]
    said = [p.communicate(timeout=120) for p in both]
    assert [p.returncode for p in both] == [0, 0], said
    assert sum("submitted" in out for out, _ in said) == 1
    assert any("queued or running already" in out for out, _ in said)
    assert set(settle(results).values()) == {"done"}
    attempts = [len(list(f.glob("attempts/*"))) for f in (results / "runs").iterdir()]
    assert set(attempts) == {1}


def test_what_is_queued_is_not_submitted_again(cluster, results, tmp_path):
    """Of 24 tasks too, of which squeue shows 23 where half of them wait for parents."""
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
        assert f"{len(states(results))} runs are queued or running already" in again.stdout
        assert set(states(results).values()) == {"queued"}
        assert mimbench("cancel", "--results", results).returncode == 0
    finally:
        slurm("scancel", blocker)
    assert settle(results).keys() == states(results).keys()


def test_a_submission_that_died_before_its_release_is_taken_back_and_made_again(
    cluster, results, tmp_path, monkeypatch
):
    plan, store = make_plan(load_grid(GRID, only=("pixels",))), Store(results)
    profile = load_profile(write_profile(tmp_path).partition(":")[2])
    prepare(plan, store)

    def silent(array):
        raise queue.QueueSilent("scontrol did not answer")

    with monkeypatch.context() as patched:
        patched.setattr(queue, "release", silent)
        outcome = submit(plan.runs, ("short", "smoke"), store, profile, {})
    assert not outcome.jobs
    assert any("held and not released" in why for why in outcome.refused.values())
    assert len(queue.mine(f"mimbench:{results}")) == 1  # the pre-training; nothing was submitted to wait for it
    outcome = submit(plan.runs, ("short", "smoke"), store, profile, {})
    assert set(outcome.jobs) == set(plan.runs)
    assert set(settle(results).values()) == {"done"}


# time limits


def test_a_run_longer_than_its_time_limit_is_done_in_pieces(cluster, results, tmp_path):
    """One minute each, the least that SLURM knows; children wait for the last piece."""
    folder = waiting_run(results, tmp_path, 50, hours=1 / 60, checkpoint_seconds=1000)
    assert set(settle(results).values()) == {"done"}
    found = [a["found"] for a in folder.attempts()]
    assert len(found) >= 2
    assert all("at step" in words for (words,) in found[1:])
    assert (folder.work / "log.txt").read_text().count("stopped in order and requeued") == len(found) - 1
    steps = [int(line.split(",")[0]) for line in (folder.path / "curve.csv").read_text().splitlines()[1:]]
    assert steps == sorted(set(steps))


def test_a_run_that_gets_no_step_further_is_failed_with_that_reason(cluster, results, tmp_path):
    """Its first step outlasts the time it is given: requeued as it is, and not for ever."""
    folder = waiting_run(results, tmp_path, 120 * STEPS, fruitless=2, grace_seconds=2)
    for attempt in (1, 2):
        until(lambda attempt=attempt: len(folder.attempts()) >= attempt)
        slurm("scancel", "--signal=USR2", folder.submission()["job"])
    found = settle(results)
    assert found[folder.name] == "failed"
    assert "requeued as it is" in (folder.work / "log.txt").read_text()
    status = mimbench("status", "--results", results).stdout
    assert "requeued 2 times in a row without getting a step further (each began with nothing done)" in status
