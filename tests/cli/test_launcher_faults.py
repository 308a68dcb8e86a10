"""One death, one run: what is done to a launcher, its fork server and single folders concerns nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import mimbench, mimbench_process, new_results

from mimbench.store.lease import process_start
from mimbench.store.results import Store

GRID = Path(__file__).parent.parent / "short_grid.yaml"
SLOW = ("--only", "pixels", "--set", "masker={type: tests.waiting.Waiting}", "--on", "local:1")


@pytest.fixture
def results(tmp_path, cache):
    return new_results(tmp_path / "results", cache)


def run(results, *words):
    return mimbench_process("run", "grid", GRID, "--results", results, *words)


def wait_for(condition, seconds=120.0):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)
    return found


def training(results):
    """The owner of the pre-training once it has its lease and an attempt."""
    folders = [f for f in Store(results).all_runs() if f.kind == "pretrain" and f.is_held() and f.attempts()]
    return folders[0].owner() if folders else None


def fork_server_of(process):
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                words = (entry / "cmdline").read_text()
            except OSError:
                continue
            if parent == str(process.pid) and "forkserver" in words:
                return int(entry.name)
    raise AssertionError("no fork server")


@pytest.mark.slow
def test_runs_go_on_when_their_fork_server_is_killed(results, monkeypatch):
    monkeypatch.setenv("SECONDS_PER_STEP", "0.2")
    process = run(results, *SLOW)
    wait_for(lambda: training(results))
    os.kill(fork_server_of(process), signal.SIGKILL)
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 0, errors
    assert "failed" not in errors
    assert all(f.done() and len(f.attempts()) == 1 for f in Store(results).all_runs())


@pytest.mark.slow
def test_a_run_ends_within_seconds_of_its_launcher_and_goes_on_later(results, monkeypatch):
    monkeypatch.setenv("SECONDS_PER_STEP", "0.2")
    process = run(results, *SLOW, "--set", "schedule.steps=200")
    owner = wait_for(lambda: training(results))
    folder = next(f for f in Store(results).all_runs() if f.kind == "pretrain")
    wait_for((folder.work / "progress.json").exists)  # it has made a step
    process.kill()
    process.communicate()
    wait_for(lambda: process_start(owner["pid"]) != owner["start"], seconds=10)
    assert folder.state() == "stopped"
    assert (folder.work / "checkpoint.pt").exists()


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["unwritable", "unreadable"])
def test_a_folder_that_is_not_accessible_fails_its_own_run_only(results, damage):
    """Permissions do not stop root: a file in the place of a folder, and a link to itself, stop everybody."""
    words = ("run", "grid", GRID, "--only", "scratch", "--results", results)
    seeds = mimbench(*words, "--seeds", "2", "--dry-run")
    assert seeds.returncode == 0
    plan = planned()
    victim = next(name for name, spec in plan.items() if spec["kind"] == "knn" and spec["seed"] == 0)
    folder = results / "runs" / victim
    folder.parent.mkdir()
    if damage == "unreadable":
        folder.symlink_to(folder)
    else:
        folder.mkdir()
        (folder / "attempts").write_text("")
    done = mimbench(*words, "--seeds", "2", "--on", "local:1")
    assert done.returncode == 1
    assert f"failed: {victim}: {folder}" in done.stderr
    assert "Traceback" not in done.stderr
    others = [f for f in Store(results).all_runs() if f.name != victim]
    assert len(others) == len(plan) - 1
    assert all(f.done() for f in others)
    status = mimbench("status", "--results", results)
    assert status.returncode == 0
    assert (f"failed: {victim}" in status.stdout) == (damage == "unreadable")  # nothing could be noted in the other
    assert mimbench("report", "--results", results).returncode == 0


def planned():
    from mimbench.config.grid import load_grid
    from mimbench.plan.graph import make_plan

    plan = make_plan(load_grid(str(GRID), only=("scratch",), seeds=2))
    return {name: run.spec for name, run in plan.runs.items()}


def test_a_module_in_the_working_directory_takes_the_place_of_no_package(tmp_path):
    (tmp_path / "rich.py").write_text("raise SystemExit(3)")
    (tmp_path / "scripts").mkdir()
    script = tmp_path / "scripts" / "start.py"
    script.write_text(
        "import multiprocessing, os, sys\n"
        "from mimbench.launch import local\n"
        "def child(): import rich.console\n"
        "if __name__ == '__main__':\n"
        "    context = multiprocessing.get_context('forkserver')\n"
        "    context.set_forkserver_preload(['rich.console'])\n"
        "    local._start_server()\n"
        "    process = context.Process(target=child)\n"
        "    process.start()\n"
        "    process.join()\n"
        "    sys.exit(process.exitcode or local.SAFE_PATH in os.environ)\n"
    )
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
