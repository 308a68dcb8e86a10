"""On a real SLURM: several ranks, and faults, each of which ends in the right state with its reason."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from commands import mimbench, mimbench_process, new_results
from slurm_lab import (
    GRID,
    SCRIPT,
    WAITING,
    bring_up,
    lasting,
    port,
    run_grid,
    runs_of_kind,
    settle,
    slurm,
    states,
    tables,
    take_down,
    until,
    waiting_run,
    write_profile,
)

from mimbench.slurm import queue
from mimbench.store.results import Store

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


# several ranks


def test_two_nodes_of_two_ranks_train_as_one_of_four_and_as_one_process(cluster, tmp_path, rendered):
    weights = {}
    places = {"2x2": {"nodes": 2, "ranks": 2}, "1x4": {"nodes": 1, "ranks": 4}, "1x1": {"micro_batch": 8}}
    folders = {}
    for name, place in places.items():
        folder = tmp_path / name
        folder.mkdir()
        folders[name] = new_results(folder / "results", rendered)
        profile = write_profile(folder, kinds={"pretrain": place})
        precise = ("--set", "schedule.precision=fp32")
        done = run_grid(folders[name], profile, "--only", "beit", *precise)
        assert done.returncode == 0, done.stderr
    for name, folder in folders.items():
        assert set(settle(folder).values()) == {"done"}, mimbench("status", "--results", folder).stdout
        (run,) = runs_of_kind(folder, "pretrain")
        weights[name] = torch.load(run / "work" / "weights.pt", weights_only=True)
        attempt = Store(folder).run(run.name).last_attempt()
        assert attempt["world"] == (1 if name == "1x1" else 4)
    for key, value in weights["2x2"].items():
        assert torch.equal(value, weights["1x4"][key]), key
        # 24 steps of Adam move a weight by up to 5e-2; it blows up the rounding of gradients near zero
        torch.testing.assert_close(value, weights["1x1"][key], rtol=0, atol=2e-4)


def test_the_death_of_one_rank_ends_the_job_at_once(cluster, results, tmp_path):
    folder = waiting_run(results, tmp_path, 300, kinds={"pretrain": {"nodes": 2, "ranks": 1}})
    until(lambda: (folder.work / "progress.json").exists())
    job = folder.submission()["job"]
    pids = _ranks_of(job)
    assert len(pids) == 2
    owner = folder.owner()["pid"]
    os.kill(next(p for p in pids if p != owner), signal.SIGKILL)
    assert settle(results, 120)[folder.name] == "failed"  # its steps alone would take 300 s
    assert not _ranks_of(job)


def _ranks_of(job):
    """Process ids of a job's ranks. All nodes are this machine; other clusters on it may use the same job number."""
    array, _, task = job.partition("_")
    wanted = {f"SLURM_ARRAY_JOB_ID={array}", f"SLURM_ARRAY_TASK_ID={task}"} if task else {f"SLURM_JOB_ID={job}"}
    wanted.add(f"SLURM_CONF={os.environ['SLURM_CONF']}")
    parents = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_text().split("\0")
            here = set((process / "environ").read_text().split("\0"))
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, UnicodeDecodeError):
            continue
        # srun's children; not the shell around them, nor the batch script, which has no rank
        ranked = any(word.startswith("SLURM_PROCID=") for word in here)
        if "python" in words[0] and "submitit.core._submit" in words and ranked and wanted <= here:
            parents[int(process.name)] = parent
    return [pid for pid, parent in parents.items() if parent not in parents]  # without the processes that a rank forks


# faults


def test_an_import_error_on_the_nodes_is_shown(cluster, results, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "submitit").mkdir()
    (broken / "submitit" / "__init__.py").write_text("raise ImportError('no submitit on the nodes')")
    profile = write_profile(tmp_path, setup=[f"export PYTHONPATH={broken}"])
    assert run_grid(results, profile, "--only", "scratch").returncode == 0
    assert set(settle(results).values()) == {"failed", "blocked"}
    status = mimbench("status", "--results", results).stdout
    assert "before the run began" in status
    assert "no submitit on the nodes" in status
    one = next(name for name, state in states(results).items() if state == "failed")
    assert "no submitit on the nodes" in mimbench("logs", one, "-f", "--results", results).stdout
    again = mimbench("retry", "--failed", "--results", results, "--on", write_profile(tmp_path))
    assert again.returncode == 0, again.stderr
    assert set(settle(results).values()) == {"done"}


def test_a_run_survives_the_death_of_its_node(cluster, results, tmp_path):
    folder = waiting_run(results, tmp_path, 20)
    until(lambda: (folder.work / "checkpoint.pt").exists() or folder.done())
    owner = folder.owner()
    node = owner["host"]
    _power_off(cluster, node)
    try:
        until(lambda: states(results)[folder.name] in ("queued", "done") or folder.owner() != owner, 120)
        assert set(settle(results, 240).values()) == {"done"}
        assert len(folder.attempts()) >= 2
        assert {a["host"] for a in folder.attempts()} > {node}
    finally:
        cluster_script(cluster, "node", node)


def _power_off(cluster, node):
    """SIGKILL to the node's daemon and its descendants: all processes in its UTS namespace.

    Not by host name: the nodes of other tests' clusters on this machine have the same.
    """
    daemon = int((Path(cluster["CLUSTER_DIR"]) / "run" / f"{node}.pid").read_text())
    its_own = _host_namespace(daemon)
    assert its_own != _host_namespace("self")
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended in the meantime
            if _host_namespace(process.name) == its_own:
                os.kill(int(process.name), signal.SIGKILL)


def _host_namespace(pid):
    return os.readlink(f"/proc/{pid}/ns/uts")


def test_a_job_ends_if_its_results_vanish_and_is_resumed_when_they_are_back(cluster, results, tmp_path):
    folder = waiting_run(results, tmp_path, 20)
    until(lambda: (folder.work / "checkpoint.pt").exists())
    away = results.with_name("away")
    results.rename(away)
    job = json.loads(sorted((away / "runs" / folder.name / "submissions").iterdir())[-1].read_text())["job"]
    assert "no such folder" in mimbench("status", "--results", results).stderr
    until(lambda: not queue.queued([job]), 120)
    assert not results.exists()  # the job left no stray copy
    away.rename(results)
    assert states(results)[folder.name] == "failed"
    assert mimbench("retry", "--results", results, "--on", write_profile(tmp_path)).returncode == 0
    assert set(settle(results).values()) == {"done"}


def _read_only(cluster, folder, yes):
    """Mount a read-only view over the folder on this machine and each node, or remove it."""
    pids = [Path(cluster["CLUSTER_DIR"], "run", f"n{n}.pid").read_text().strip() for n in (1, 2, 3)]
    for where in ([], *(["nsenter", "--mount", "--target", pid] for pid in pids)):
        if yes:
            assert slurm(*where, "mount", "--bind", str(folder), str(folder)).returncode == 0
            assert slurm(*where, "mount", "-o", "remount,bind,ro", str(folder)).returncode == 0
        else:
            assert slurm(*where, "umount", "--lazy", str(folder)).returncode == 0


def test_a_job_ends_with_a_reason_if_its_results_become_read_only(cluster, results, tmp_path):
    folder = waiting_run(results, tmp_path, 20)
    until(lambda: (folder.work / "checkpoint.pt").exists())
    _read_only(cluster, results, True)
    try:
        found = settle(results, 150)
        assert found[folder.name] == "failed"
        status = mimbench("status", "--results", results).stdout
        assert "cannot be written now" in status
        assert "ended without reporting an error" in status
        refused = run_grid(results, write_profile(tmp_path), "--only", "pixels")
        assert refused.returncode == 2
        assert "results cannot be written there" in refused.stderr
    finally:
        _read_only(cluster, results, False)
    assert mimbench("retry", "--results", results, "--on", write_profile(tmp_path)).returncode == 0
    assert set(settle(results).values()) == {"done"}


def _full(cluster, folder, yes):
    """Mount a disk of 64 kB over the folder on each node, or remove it."""
    for number in (1, 2, 3):
        pid = Path(cluster["CLUSTER_DIR"], "run", f"n{number}.pid").read_text().strip()
        there = ("nsenter", "--mount", "--target", pid)
        mount = ("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs") if yes else ("umount", "--lazy")
        assert slurm(*there, *mount, str(folder)).returncode == 0


def test_a_full_disk_on_the_node_fails_the_run_with_the_file_and_it_can_go_on_later(cluster, results, tmp_path):
    folder = waiting_run(results, tmp_path, 20)
    until(lambda: (folder.work / "checkpoint.pt").exists())
    _full(cluster, folder.work, True)
    try:
        assert settle(results, 150)[folder.name] == "failed"
        status = mimbench("status", "--results", results).stdout
        assert "No space left on device" in status
        assert str(folder.work / "checkpoint.pt") in status
    finally:
        _full(cluster, folder.work, False)
    assert mimbench("retry", "--results", results, "--on", write_profile(tmp_path)).returncode == 0
    assert set(settle(results).values()) == {"done"}


def test_whatever_befalls_the_cluster_the_table_is_that_of_one_machine(cluster, results, tmp_path, rendered):
    """Two submissions at once; the controller dies; all jobs are cancelled and submitted again; a node is drained and the
    daemon of another dies."""
    clean = new_results(tmp_path / "clean", rendered)
    assert run_grid(clean, "local:2", *WAITING).returncode == 0
    words = ("run", "grid", GRID, "--results", results, "--on", write_profile(tmp_path, **lasting(30)), *WAITING)
    trained = lambda: {f.name for f in Store(results).all_runs() if (f.work / "checkpoint.pt").exists()}
    running = lambda: {f.owner()["host"] for f in Store(results).all_runs() if f.is_held()}
    for process in [mimbench_process(*words) for _ in range(2)]:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    until(trained)
    os.kill(int(Path(cluster["CLUSTER_DIR"], "run", "slurmctld.pid").read_text()), signal.SIGKILL)
    time.sleep(20)
    assert mimbench("status", "--results", results).returncode == 0  # says that the queue does not answer
    cluster_script(cluster, "controller")
    until(lambda: slurm("squeue").returncode == 0, 60)

    assert slurm("scancel", "--user=root").returncode == 0
    until(lambda: not slurm("squeue", "-h").stdout.strip(), 120)
    assert "failed" not in states(results).values()
    assert mimbench(*words).returncode == 0
    until(lambda: running() or set(states(results).values()) == {"done"}, 120)
    drained, dead, *_ = [*running(), "n1", "n2"]
    dead = next(node for node in ("n1", "n2", "n3") if node != drained) if dead == drained else dead
    assert slurm("scontrol", "update", f"NodeName={drained}", "State=DRAIN", "Reason=test").returncode == 0
    os.kill(int(Path(cluster["CLUSTER_DIR"], "run", f"{dead}.pid").read_text()), signal.SIGKILL)
    try:
        time.sleep(15)  # longer than the controller waits for a node
        cluster_script(cluster, "node", dead)
    finally:
        assert slurm("scontrol", "update", f"NodeName={drained}", "State=RESUME").returncode == 0
    assert set(settle(results).values()) == {"done"}, mimbench("status", "--results", results).stdout
    assert tables(results) == tables(clean)


def cluster_script(cluster, *words):
    subprocess.run([SCRIPT, *words], env=cluster, check=True, capture_output=True, timeout=60)


def test_an_error_of_sbatch_is_shown_and_children_are_not_submitted(cluster, results, tmp_path):
    done = run_grid(results, write_profile(tmp_path, partition="nowhere"))
    assert done.returncode == 1
    assert "invalid partition" in done.stderr
    assert "its parent" in done.stderr
    assert not queue.mine(f"mimbench:{results}")
    assert set(states(results).values()) == {"planned"}


def test_cancelled_jobs_are_not_failures_and_retry_resumes_them(cluster, results, tmp_path):
    folder = waiting_run(results, tmp_path, 20)
    until(lambda: (folder.work / "progress.json").exists())
    done = mimbench("cancel", "short", "--results", results)
    assert done.returncode == 0, done.stderr
    assert "3 jobs cancelled" in done.stdout
    found = settle(results, 120)
    assert found[folder.name] == "stopped"
    assert set(found.values()) == {"stopped", "planned"}
    assert (folder.work / "checkpoint.pt").exists()  # it saved before it went
    again = mimbench("retry", "--results", results)
    assert again.returncode == 2
    assert "was submitted: give --on slurm:" in again.stderr  # never on the login node by accident
    on = ("--on", write_profile(tmp_path, **lasting(20)))
    assert mimbench("retry", "--results", results, *on).returncode == 0
    until(lambda: states(results)[folder.name] == "running" and len(folder.attempts()) == 2)
    until(lambda: (folder.work / "progress.json").exists())
    assert mimbench("cancel", "--results", results).returncode == 0
    # while the cancelled jobs are still ending: their children depend on the new jobs
    assert mimbench("retry", "--results", results, *on).returncode == 0
    assert set(settle(results).values()) == {"done"}


def test_doctor_checks_the_cluster_through_a_job(cluster, results, tmp_path):
    done = mimbench("doctor", "--results", results, "--on", write_profile(tmp_path, nodes=2, ranks=2))
    assert done.returncode == 0, done.stdout + done.stderr
    for words in ("accounting: yes", "all 4 connected on n1, n2", "the sum is right on every rank", "sees the files of all",
                  "scontrol answers from within the job"):  # fmt: skip
        assert words in done.stdout


def test_sbatch_accepts_the_scripts_of_a_dry_run(cluster, results, tmp_path):
    shown = run_grid(results, write_profile(tmp_path), "--dry-run").stdout
    scripts = ["#!/bin/bash" + part for part in shown.split("#!/bin/bash")[1:]]
    assert len(scripts) == 4
    for script in scripts:
        path = tmp_path / "script.sh"
        path.write_text(script)
        done = slurm("sbatch", "--test-only", str(path))
        assert done.returncode == 0, done.stderr


def test_a_full_queue_accepts_what_fits_and_the_rest_later(cluster, results, tmp_path):
    """With a limit of five jobs per account, the error of the others is shown, and their children are not submitted."""
    account = ("sacctmgr", "--immediate", "modify", "user", "root", "set")
    assert slurm(*account, "MaxSubmitJobs=5").returncode == 0
    try:
        done = until(lambda: (d := run_grid(results, write_profile(tmp_path))).returncode == 1 and d, 30)
        assert "MaxSubmitJobs" in done.stderr or "violates accounting" in done.stderr
        assert "submitted tokenizer" in done.stdout
        settle(results)
    finally:
        assert slurm(*account, "MaxSubmitJobs=-1").returncode == 0
    found = states(results)
    assert set(found.values()) == {"done", "planned"}
    until(lambda: run_grid(results, write_profile(tmp_path)).returncode == 0, 60)
    assert set(settle(results).values()) == {"done"}


# without accounting


@pytest.fixture(scope="module")
def bare_cluster(tmp_path_factory):
    environment = bring_up(
        tmp_path_factory.mktemp("bare"), CLUSTER_PORT=port(1), CLUSTER_NODES=1, CLUSTER_EXTRA="MaxJobCount=9"
    )
    yield environment
    take_down(environment)


@pytest.fixture
def bare(bare_cluster, monkeypatch):
    monkeypatch.setenv("SLURM_CONF", bare_cluster["SLURM_CONF"])
    return bare_cluster


def test_without_accounting_a_killed_job_fails_when_it_leaves_the_queue(bare, results, tmp_path):
    folder = waiting_run(results, tmp_path, 100)
    until(lambda: (folder.work / "progress.json").exists())
    os.kill(folder.owner()["pid"], signal.SIGKILL)
    found = settle(results, 150)
    assert found[folder.name] == "failed"
    assert found[next(n for n in found if n.startswith("knn"))] == "blocked"
    assert "without reporting an error (no sacct record)" in mimbench("status", "--results", results).stdout
