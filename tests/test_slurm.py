"""On a real SLURM of three nodes, brought up on this machine by slurm/cluster/cluster.sh."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from mimbench.slurm import queue
from mimbench.slurm.profile import load_profile
from mimbench.slurm.submit import submit

from mimbench.grid import load_grid
from mimbench.launch import prepare
from mimbench.plan import make_plan
from mimbench.seen import look
from mimbench.store import Store, read_grid

pytestmark = [pytest.mark.slurm, pytest.mark.slow]
GRID = str(ROOT / "tests" / "slurm_grid.yaml")
SCRIPT = ROOT / "slurm" / "cluster" / "cluster.sh"
QUICK = {"partition": "main", "cpus": 1, "memory_gb": 1.5, "hours": 1, "grace_seconds": 15, "checkpoint_seconds": 1}


def bring_up(folder, **settings):
    """A cluster of its own: returns its environment, or skips and says why."""
    if os.geteuid() != 0:
        missing = "the tests marked `slurm` need root to bring a SLURM up"
    else:
        environment = {**os.environ, "CLUSTER_DIR": str(folder), **{k: str(v) for k, v in settings.items()}}
        done = subprocess.run([SCRIPT, "up"], env=environment, capture_output=True, text=True, timeout=300)
        if done.returncode == 0:
            return {**environment, "SLURM_CONF": f"{folder}/etc/slurm.conf"}
        missing = f"no SLURM could be brought up here: {done.stderr[-500:]}"
    if os.environ.get("MIMBENCH_REQUIRE_SLURM"):
        pytest.fail(missing)
    pytest.skip(missing)


def take_down(environment):
    subprocess.run([SCRIPT, "down"], env=environment, capture_output=True, timeout=120, check=True)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """With accounting."""
    limits = "AccountingStorageEnforce=limits"
    folder = tmp_path_factory.mktemp("cluster")
    environment = bring_up(folder, CLUSTER_ACCOUNTING=1, CLUSTER_PORT=17840, CLUSTER_EXTRA=limits)
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = environment["SLURM_CONF"]
    yield environment
    take_down(environment)
    os.environ.pop("SLURM_CONF") if before is None else os.environ.update(SLURM_CONF=before)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """The embedded data, rendered once for every results folder here."""
    return tmp_path_factory.mktemp("rendered")


@pytest.fixture
def results(tmp_path, rendered):
    return new_results(tmp_path / "results", rendered)


def new_results(folder, rendered):
    folder.mkdir()
    (folder / "cache").symlink_to(rendered)
    return folder


def write_profile(folder, **settings):
    path = folder / "profile.yaml"
    path.write_text(json.dumps({**QUICK, **settings}))
    return f"slurm:{path}"


def mimbench(*words, **more):
    words = [sys.executable, "-m", "mimbench", *map(str, words)]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=600, **more)


def run_grid(results, on, *words, grid=GRID):
    return mimbench("run", "grid", grid, "--results", results, "--on", on, *words)


def states(results, name="slurm.smoke"):
    store = Store(results)
    record = read_grid(store.root / "grids" / f"{name}.json")
    names = list(dict.fromkeys(n for row in record["rows"] for runs in row["runs"].values() for n in runs.values()))
    return {n: seen.state for n, seen in look(store, names)[0].items()}


def settle(results, seconds=300, name="slurm.smoke"):
    """Until nothing runs or waits."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = states(results, name)
        if not {"running", "queued"} & set(found.values()):
            return found
        time.sleep(1)
    raise AssertionError(f"still moving after {seconds} s: {mimbench('status', '--results', results).stdout}")


def tables(results, name="slurm.smoke"):
    assert mimbench("report", "--results", results).returncode == 0
    return {p.name: p.read_bytes() for p in (results / "reports" / name).glob("table.*")}


def until(what, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = what()
        if value:
            return value
        time.sleep(0.2)
    raise AssertionError("waited in vain")


def runs_of_kind(results, kind):
    return sorted(Store(results).runs.glob(f"{kind}-*"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, rendered):
    """The grid of these tests on this machine, without a cluster."""
    results = new_results(tmp_path_factory.mktemp("local") / "results", rendered)
    done = run_grid(results, "local:2")
    assert done.returncode == 0, done.stderr
    return results


def test_a_grid_submitted_at_once_gives_the_same_table_as_on_one_machine(cluster, undisturbed, results, tmp_path):
    profile = write_profile(tmp_path, kinds={"finetune": {"throttle": 1}})
    done = run_grid(results, profile)
    assert done.returncode == 0, done.stderr
    arrays = dict(re.findall(r"submitted (\w+): job (\d+)", done.stdout))
    assert set(arrays) == {"tokenizer", "pretrain", "finetune", "knn"}
    most = 0
    while {"running", "queued"} & set(states(results).values()):
        running = _slurm("squeue", "-h", "-r", "--states=R", "-o", "%F").stdout.split()
        most = max(most, running.count(arrays["finetune"]))
    assert most == 1
    assert set(settle(results).values()) == {"done"}
    assert tables(results) == tables(undisturbed)
    again = run_grid(results, profile)
    assert "nothing to submit" in again.stderr
    # a last job wrote the report without anybody's asking
    assert (results / "reports" / "slurm.smoke" / "index.html").exists()
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
    words = [
        sys.executable,
        "-m",
        "mimbench",
        "run",
        "grid",
        GRID,
        "--results",
        str(results),
        "--on",
        write_profile(tmp_path),
    ]
    both = [
        subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    said = [p.communicate(timeout=120) for p in both]
    assert [p.returncode for p in both] == [0, 0], said
    assert sum("submitted" in out for out, _ in said) == 1
    assert any("queued or running already" in out for out, _ in said)
    assert set(settle(results).values()) == {"done"}
    attempts = [len(list(f.glob("attempts/*"))) for f in (results / "runs").iterdir()]
    assert set(attempts) == {1}


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
        outcome = submit(plan.runs, ("slurm", "smoke"), store, profile, {})
    assert not outcome.jobs
    assert any("held and not released" in why for why in outcome.refused.values())
    assert len(queue.mine(f"mimbench:{results}")) == 1  # the pre-training; nothing was submitted to wait for it
    outcome = submit(plan.runs, ("slurm", "smoke"), store, profile, {})
    assert set(outcome.jobs) == set(plan.runs)
    assert set(settle(results).values()) == {"done"}


# killed in every way


LONG = ("--set", "schedule.steps=1500", "--set", "protocols.finetune.epochs=60")


def _running(results):
    """(folder, owner) of the runs that somebody holds, past their start."""
    found = []
    for folder in Store(results).all_runs():
        owner = folder.claim_owner()
        if owner and not folder.done() and owner.get("job"):
            found.append((folder, owner))
    return found


def _slurm(*words):
    return subprocess.run(words, capture_output=True, text=True, timeout=60)


class Chaos:
    """Ways to end a job that its author did not ask for."""

    def __init__(self, rng):
        self.rng = rng

    def signal(self, owner):
        _slurm("scancel", "--signal=USR2", owner["job"])

    def terminate(self, owner):
        _slurm("scancel", "--signal=TERM", owner["job"])

    def requeue(self, owner):
        _slurm("scontrol", "requeue", owner["job"])

    def kill(self, owner):
        os.kill(owner["pid"], signal.SIGKILL)

    def limit(self, owner):
        _slurm("scontrol", "update", f"JobId={owner['job']}", "TimeLimit=1")

    def preempt(self, owner):
        words = ["sbatch", "--partition=main", "--exclusive", "--nodes=1", "--output=/dev/null", "--wrap=sleep 5"]
        _slurm(*words[:4], f"--nodelist={owner['host']}", *words[4:])


def test_killed_at_twenty_random_moments_it_ends_in_the_same_table(cluster, results, tmp_path, rendered):
    seed = random.randrange(10**6)
    print(f"seed of the chaos: {seed}")
    rng = random.Random(seed)
    clean = new_results(tmp_path / "clean", rendered)
    assert run_grid(clean, "local:2", *LONG).returncode == 0
    profile = write_profile(tmp_path, partition="low", max_requeues=500, fruitless=50)
    chaos = Chaos(rng)
    ways = [chaos.signal, chaos.terminate, chaos.requeue, chaos.kill, chaos.limit, chaos.preempt]
    assert run_grid(results, profile, *LONG).returncode == 0
    struck = []
    end = time.monotonic() + 420
    while time.monotonic() < end:
        found = states(results)
        effects = sum(len(f.attempts()) - 1 for f in Store(results).all_runs() if f.attempts())
        if effects < 20 and (running := _running(results)):
            folder, owner = rng.choice(running)
            way = ways[len(struck) % len(ways)]
            time.sleep(rng.uniform(0, 2))
            try:
                way(owner)
                struck.append((way.__name__, folder.kind))
            except ProcessLookupError:
                continue
        elif set(found.values()) == {"done"}:
            break
        elif not {"running", "queued"} & set(found.values()):
            retried = mimbench("retry", "--results", results, "--on", profile)
            assert retried.returncode == 0, retried.stderr
        time.sleep(0.5)
    found = settle(results)
    assert set(found.values()) == {"done"}, mimbench("status", "--results", results).stdout
    print(struck)
    attempts = sum(len(f.attempts()) for f in Store(results).all_runs())
    assert attempts - len(found) >= 20  # each of them was in the middle of a run
    assert {way for way, _ in struck} == {w.__name__ for w in ways}
    assert tables(results) == tables(clean)
    for folder in (results / "runs").iterdir():  # nothing that was finished was begun again
        done = (folder / "result.json").stat().st_mtime
        assert all(p.stat().st_mtime <= done for p in (folder / "attempts").iterdir())
    for name in ("curve.csv",):
        for path in (clean / "runs").glob(f"*/{name}"):
            assert path.read_bytes() == (results / "runs" / path.parent.name / name).read_bytes()


def test_a_run_longer_than_its_time_limit_is_done_in_pieces(cluster, results, tmp_path):
    """One minute each, the least that SLURM knows; children wait for the last piece."""
    profile = write_profile(tmp_path, hours=1 / 60, checkpoint_seconds=1000)
    assert run_grid(results, profile, "--only", "pixels", "--set", "schedule.steps=2000").returncode == 0
    assert set(settle(results).values()) == {"done"}
    (run,) = runs_of_kind(results, "pretrain")
    folder = Store(results).run(run.name)
    found = [a["found"] for a in folder.attempts()]
    assert len(found) >= 2
    assert all("at step" in words for (words,) in found[1:])
    assert (folder.work / "log.txt").read_text().count("stopped in order and requeued") == len(found) - 1
    steps = [int(line.split(",")[0]) for line in (run / "curve.csv").read_text().splitlines()[1:]]
    assert steps == sorted(set(steps))


def test_a_run_that_gets_no_step_further_is_failed_with_that_reason(cluster, results, tmp_path):
    """Its first step outlasts the time it is given: requeued as it is, and not for ever."""
    profile = write_profile(tmp_path, fruitless=2, grace_seconds=2)
    slow = ("--only", "pixels", "--set", "masker.type=tests.slow_part.Slow")
    assert run_grid(results, profile, *slow).returncode == 0
    folder = until(lambda: next((f for f in Store(results).all_runs() if f.kind == "pretrain"), None))
    for attempt in (1, 2):
        until(lambda attempt=attempt: len(folder.attempts()) >= attempt)
        _slurm("scancel", "--signal=USR2", folder.submission()["job"])
    found = settle(results)
    assert found[folder.name] == "failed"
    assert "requeued as it is" in (folder.work / "log.txt").read_text()
    status = mimbench("status", "--results", results).stdout
    assert "requeued 2 times in a row without getting a step further (each began with nothing done)" in status


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
    profile = write_profile(tmp_path, kinds={"pretrain": {"nodes": 2, "ranks": 1}})
    assert run_grid(results, profile, "--only", "pixels", "--set", "schedule.steps=100000").returncode == 0
    folder = until(lambda: next((f for f in Store(results).all_runs() if f.kind == "pretrain"), None))
    until(lambda: (folder.work / "progress.json").exists())
    job = folder.submission()["job"]
    pids = _ranks_of(job)
    assert len(pids) == 2
    owner = folder.claim_owner()["pid"]
    os.kill(next(p for p in pids if p != owner), signal.SIGKILL)
    begun = time.monotonic()
    found = settle(results, 60)
    assert found[folder.name] == "failed"
    assert time.monotonic() - begun < 30
    assert not _ranks_of(job)


def _ranks_of(job):
    """Process ids of the ranks of a job on this machine, which is all of its nodes."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                here = (entry / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            array, _, task = job.partition("_")
            wanted = [f"SLURM_ARRAY_JOB_ID={array}", f"SLURM_ARRAY_TASK_ID={task}"] if task else [f"SLURM_JOB_ID={job}"]
            if b"submitit.core._submit" in words and b"-m" in words and b"sh" not in words[0].split(b"/")[-1:] \
                    and all(w.encode() in here for w in wanted) and any(w.startswith(b"SLURM_PROCID=") for w in here) \
                    and b"python" in words[0]:  # fmt: skip
                found.append(int(entry.name))
    return found


# what goes wrong


def test_code_that_cannot_be_imported_is_told(cluster, results, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "submitit").mkdir()
    (broken / "submitit" / "__init__.py").write_text("raise ImportError('no submitit on the nodes')")
    profile = write_profile(tmp_path, setup=[f"export PYTHONPATH={broken}"])
    assert run_grid(results, profile, "--only", "scratch").returncode == 0
    assert set(settle(results).values()) == {"failed"}
    status = mimbench("status", "--results", results).stdout
    assert "before it began" in status
    assert "no submitit on the nodes" in status
    again = mimbench("retry", "--failed", "--results", results, "--on", write_profile(tmp_path))
    assert again.returncode == 0, again.stderr
    assert set(settle(results).values()) == {"done"}


def test_a_node_that_dies_does_not_lose_the_run(cluster, results, tmp_path):
    assert (
        run_grid(results, write_profile(tmp_path), "--only", "pixels", "--set", "schedule.steps=2000").returncode == 0
    )
    folder = until(lambda: next((f for f in Store(results).all_runs() if f.kind == "pretrain"), None))
    until(lambda: (folder.work / "checkpoint.pt").exists() or folder.done())
    owner = folder.claim_owner()
    node = owner["host"]
    _power_off(cluster, node)
    try:
        until(lambda: states(results)[folder.name] in ("queued", "done") or folder.claim_owner() != owner, 120)
        assert set(settle(results, 240).values()) == {"done"}
        assert len(folder.attempts()) >= 2
        assert {a["host"] for a in folder.attempts()} > {node}
    finally:
        subprocess.run([SCRIPT, "node", node], env=cluster, check=True, capture_output=True, timeout=60)


def _power_off(cluster, node):
    """SIGKILL to the node's daemon and to everything below it."""
    daemon = int((Path(cluster["CLUSTER_DIR"]) / "run" / f"{node}.pid").read_text())
    doomed = [daemon]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                here = (entry / "environ").read_bytes().split(b"\0")
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if f"SLURMD_NODENAME={node}".encode() in here or (b"slurmstepd" in words and _host_of(entry) == node):
                doomed.append(int(entry.name))
    for pid in doomed:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _host_of(entry):
    """The host name that a process sees."""
    done = subprocess.run(["nsenter", "--uts", "--target", entry.name, "hostname"], capture_output=True, text=True)
    return done.stdout.strip()


def test_results_that_vanish_end_the_job_and_come_back_whole(cluster, results, tmp_path):
    assert (
        run_grid(results, write_profile(tmp_path), "--only", "pixels", "--set", "schedule.steps=2000").returncode == 0
    )
    folder = until(lambda: next((f for f in Store(results).all_runs() if f.kind == "pretrain"), None))
    until(lambda: (folder.work / "checkpoint.pt").exists())
    away = results.with_name("away")
    results.rename(away)
    job = json.loads(sorted((away / "runs" / folder.name / "submissions").iterdir())[-1].read_text())["job"]
    assert "no such folder" in mimbench("status", "--results", results).stdout
    until(lambda: not _slurm("squeue", "-h", "-r", f"--jobs={job},1").stdout.strip(), 90)
    if results.exists():  # a dying job may have made an empty one
        subprocess.run(["cp", "-rn", f"{results}/.", str(away)], check=True)
        subprocess.run(["rm", "-rf", str(results)], check=True)
    away.rename(results)
    assert states(results)[folder.name] == "failed"
    assert mimbench("retry", "--results", results, "--on", write_profile(tmp_path)).returncode == 0
    assert set(settle(results).values()) == {"done"}


def _read_only(cluster, folder, yes):
    """For this machine and for each node: a read-only view laid over the folder, or taken away again."""
    pids = [Path(cluster["CLUSTER_DIR"], "run", f"n{n}.pid").read_text().strip() for n in (1, 2, 3)]
    for where in ([], *(["nsenter", "--mount", "--target", pid] for pid in pids)):
        if yes:
            assert _slurm(*where, "mount", "--bind", str(folder), str(folder)).returncode == 0
            assert _slurm(*where, "mount", "-o", "remount,bind,ro", str(folder)).returncode == 0
        else:
            assert _slurm(*where, "umount", "--lazy", str(folder)).returncode == 0


def test_results_that_become_read_only_end_the_job_with_a_sentence(cluster, results, tmp_path):
    assert (
        run_grid(results, write_profile(tmp_path), "--only", "pixels", "--set", "schedule.steps=2000").returncode == 0
    )
    folder = until(lambda: next((f for f in Store(results).all_runs() if f.kind == "pretrain"), None))
    until(lambda: (folder.work / "checkpoint.pt").exists())
    _read_only(cluster, results, True)
    try:
        found = settle(results, 90)
        assert found[folder.name] == "failed"
        status = mimbench("status", "--results", results).stdout
        assert "cannot be written now" in status
        assert "ended without a word" in status
        refused = run_grid(results, write_profile(tmp_path), "--only", "pixels")
        assert refused.returncode == 2
        assert "results cannot be written there" in refused.stderr
    finally:
        _read_only(cluster, results, False)
    assert mimbench("retry", "--results", results, "--on", write_profile(tmp_path)).returncode == 0
    assert set(settle(results).values()) == {"done"}


def test_what_sbatch_refuses_is_told_and_nothing_waits_for_it(cluster, results, tmp_path):
    done = run_grid(results, write_profile(tmp_path, partition="nowhere"))
    assert done.returncode == 1
    assert "invalid partition" in done.stderr
    assert "its parent" in done.stderr
    assert not queue.mine(f"mimbench:{results}")
    assert set(states(results).values()) == {"planned"}


def test_cancelled_jobs_are_not_called_failures_and_retry_goes_on(cluster, results, tmp_path):
    assert (
        run_grid(results, write_profile(tmp_path), "--set", "schedule.steps=2000", "--only", "pixels").returncode == 0
    )
    folder = until(lambda: next((f for f in Store(results).all_runs() if f.kind == "pretrain"), None))
    until(lambda: (folder.work / "progress.json").exists())
    done = mimbench("cancel", "slurm", "--results", results)
    assert done.returncode == 0, done.stderr
    assert "3 jobs cancelled" in done.stdout
    found = settle(results, 60)
    assert found[folder.name] == "stopped"
    assert set(found.values()) == {"stopped", "planned"}
    assert (folder.work / "checkpoint.pt").exists()  # it saved before it went
    assert mimbench("retry", "--results", results, "--on", write_profile(tmp_path)).returncode == 0
    assert set(settle(results).values()) == {"done"}


def test_doctor_examines_the_cluster_through_a_job(cluster, results, tmp_path):
    done = mimbench("doctor", "--results", results, "--on", write_profile(tmp_path, nodes=2, ranks=2))
    assert done.returncode == 0, done.stdout + done.stderr
    for words in ("accounting: yes", "all 4 met on n1, n2", "the sum is right on every rank", "sees the files of all",
                  "scontrol answers from within the job"):  # fmt: skip
        assert words in done.stdout


def test_the_script_of_a_dry_run_is_what_sbatch_takes(cluster, results, tmp_path):
    shown = run_grid(results, write_profile(tmp_path), "--dry-run").stdout
    scripts = ["#!/bin/bash" + part for part in shown.split("#!/bin/bash")[1:]]
    assert len(scripts) == 4
    for script in scripts:
        path = tmp_path / "script.sh"
        path.write_text(script)
        done = _slurm("sbatch", "--test-only", str(path))
        assert done.returncode == 0, done.stderr


def test_a_full_queue_takes_what_fits_and_the_rest_later(cluster, results, tmp_path):
    """The account may have five jobs at a time: what is over is told at once, and its children are not submitted."""
    account = ("sacctmgr", "--immediate", "modify", "user", "root", "set")
    assert _slurm(*account, "MaxSubmitJobs=5").returncode == 0
    try:
        done = until(lambda: (d := run_grid(results, write_profile(tmp_path))).returncode == 1 and d, 30)
        assert "MaxSubmitJobs" in done.stderr or "violates accounting" in done.stderr
        assert "submitted tokenizer" in done.stdout
        settle(results)
    finally:
        assert _slurm(*account, "MaxSubmitJobs=-1").returncode == 0
    found = states(results)
    assert set(found.values()) == {"done", "planned"}
    until(lambda: run_grid(results, write_profile(tmp_path)).returncode == 0, 60)
    assert set(settle(results).values()) == {"done"}


# without accounting


@pytest.fixture(scope="module")
def bare_cluster(tmp_path_factory):
    environment = bring_up(
        tmp_path_factory.mktemp("bare"), CLUSTER_PORT=17870, CLUSTER_NODES=1, CLUSTER_EXTRA="MaxJobCount=9"
    )
    yield environment
    take_down(environment)


@pytest.fixture
def bare(bare_cluster, monkeypatch):
    monkeypatch.setenv("SLURM_CONF", bare_cluster["SLURM_CONF"])
    return bare_cluster


def test_without_accounting_a_killed_job_is_told_from_its_leaving_the_queue(bare, results, tmp_path):
    assert (
        run_grid(results, write_profile(tmp_path), "--only", "pixels", "--set", "schedule.steps=100000").returncode == 0
    )
    folder = until(lambda: next((f for f in Store(results).all_runs() if f.kind == "pretrain"), None))
    until(lambda: (folder.work / "progress.json").exists())
    os.kill(folder.claim_owner()["pid"], signal.SIGKILL)
    found = settle(results, 90)
    assert found[folder.name] == "failed"
    assert found[next(n for n in found if n.startswith("knn"))] == "blocked"
    assert "without a word (no accounting here)" in mimbench("status", "--results", results).stdout
