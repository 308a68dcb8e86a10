"""States of runs, `why` and `doctor`, without a cluster. On a real one: tests/slurm/."""

from __future__ import annotations

import itertools
import re
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest
from conftest import ROOT
from synthetic_grid import FINETUNE, KNN, column, evaluation, finish, write_grid
from synthetic_grid import planned as planned_run

from mimbench import compat
from mimbench.cli import doctor, jobs
from mimbench.cli.commands import main
from mimbench.cli.status import status, why_lines
from mimbench.config.grid import load_grid
from mimbench.errors import UserError
from mimbench.launch.queue import Job, QueueUnavailable
from mimbench.launch.state import find_run, run_states, runs_of
from mimbench.plan.graph import from_folders, make_plan
from mimbench.plan.record import prepare
from mimbench.store.records import read_grid
from mimbench.store.results import Store

GRID = str(ROOT / "configs" / "ablations.yaml")


class FakeQueue:
    """Answers with these jobs; None: it is unavailable."""

    def __init__(self, queued=(), ended=(), before=lambda: None):
        self.jobs, self.history, self.before = queued, ended, before

    def queued(self, ids):
        self.before()
        if self.jobs is None:
            raise QueueUnavailable("squeue did not answer")
        return {job.id: job for job in self.jobs if job.id in set(ids)}

    def ended(self, ids):
        return {job.id: job for job in self.history if job.id in set(ids)}


PENDING = Job("17_3", "PENDING", "Resources", "")
RUNNING = Job("17_3", "RUNNING", "None", "n4")
COMPLETING = Job("17_3", "COMPLETING", "None", "n4")
KILLED = Job("17_3", "OUT_OF_MEMORY", "exit code 0:125", "n4")
CANCELLED = Job("17_3", "CANCELLED", "exit code 0:0", "n4")


@pytest.fixture
def planned(tmp_path):
    plan, store = make_plan(load_grid(GRID, scale="smoke", seeds=1, only=("no-tokens",))), Store(tmp_path / "results")
    prepare(plan, store)
    return store, {run.kind: store.run(name) for name, run in plan.runs.items()}


def make_folder(run, state, monkeypatch):
    """Bring a run's folder into a state, by its job 17_3 where one has to be named; returns the lease, if any."""
    monkeypatch.setenv("SLURM_JOB_ID", "17_3")
    if state != "planned":
        attempt = run.begin_attempt({"slurm_job": "17_3"})
    if state == "done":
        run.finish({"kind": "pretrain"}, {"seconds": 1, "world": 1})
    if state == "failed":
        run.fail(attempt, ValueError("the cause"))
    return run.acquire() if state == "running" else None


FOLDERS = ("done", "running", "failed", "stopped", "planned")
JOBS = {  # what became of the job: the queue's answer, and the state of a run by that of its folder
    "none": (FakeQueue(), "done running failed stopped planned"),
    "unknown": (FakeQueue(None), "done running failed queued queued"),
    "waiting": (FakeQueue([PENDING]), "queued queued queued queued queued"),
    "active": (FakeQueue([RUNNING]), "running running running running running"),
    "cancelled": (FakeQueue([], [CANCELLED]), "done stopped failed stopped planned"),
    "vanished": (FakeQueue([], [KILLED]), "done failed failed failed failed"),
}


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("job", JOBS)
def test_the_state_of_a_run_follows_from_its_folder_and_its_job(planned, monkeypatch, job, folder):
    """The weights of the done run are lost, so that its job still counts."""
    store, runs = planned
    queue, states = JOBS[job]
    if job != "none":
        runs["pretrain"].note_submission({"job": "17_3"})
    lease = make_folder(runs["pretrain"], folder, monkeypatch)
    run = run_states(store, [runs["pretrain"].name], queue)[0][runs["pretrain"].name]
    if lease:
        lease.release()
    assert run.state == states.split()[FOLDERS.index(folder)]
    assert run.in_queue == (job in ("waiting", "active"))


@pytest.mark.parametrize(
    ("queue", "state", "words"),
    [
        (FakeQueue([PENDING]), "queued", "waiting for free resources"),
        (FakeQueue([RUNNING]), "running", "on n4 (job 17_3)"),
        (FakeQueue([COMPLETING]), "running", "on n4 (job 17_3)"),
        (FakeQueue([], [KILLED]), "failed", "before the run began (OUT_OF_MEMORY"),
        (FakeQueue([], [CANCELLED]), "planned", "was cancelled"),
        (FakeQueue([]), "failed", "no sacct record"),
        (FakeQueue(None), "queued", "last known state"),
    ],
)
def test_why_says_what_became_of_a_job_that_has_not_begun_its_run(planned, monkeypatch, queue, state, words):
    store, runs = planned
    runs["pretrain"].note_submission({"job": "17_3"})
    states, warning = run_states(store, runs_of(read_grid(store.grid_path("ablations", "smoke"))), queue)
    assert states[runs["pretrain"].name].state == state
    assert (states[runs["knn"].name].state == "blocked") == (state == "failed")
    assert ("squeue did not answer" in warning) == (queue.jobs is None)
    monkeypatch.setattr(jobs, "queue", queue)
    assert words in "\n".join(why_lines(store, runs["pretrain"]))


def test_a_job_that_began_its_run_and_left_the_queue_failed_without_reporting_an_error(planned):
    store, runs = planned
    runs["pretrain"].note_submission({"job": "17_3"})
    runs["pretrain"].begin_attempt({"slurm_job": "17_3"})
    run = run_states(store, [runs["pretrain"].name], FakeQueue([], [KILLED]))[0][runs["pretrain"].name]
    assert (run.state, run.in_queue) == ("failed", False)
    assert "without reporting an error (OUT_OF_MEMORY, exit code 0:125, on n4)" in run.reason


def test_a_job_that_is_ending_after_it_was_cancelled_or_failed_has_left_the_queue(planned):
    store, runs = planned
    runs["pretrain"].note_submission({"cancelled": "17_3"})
    runs["knn"].note_submission({"job": "17_3"})
    runs["knn"].fail(runs["knn"].begin_attempt({"slurm_job": "17_3"}), ValueError("the cause"))
    states, _ = run_states(store, [runs["pretrain"].name, runs["knn"].name], FakeQueue([COMPLETING]))
    assert [(run.state, run.in_queue) for run in states.values()] == [("planned", False), ("failed", False)]
    assert states[runs["knn"].name].reason == "ValueError: the cause"


def test_a_run_that_another_process_continued_no_longer_depends_on_its_job(planned):
    store, runs = planned
    runs["pretrain"].note_submission({"job": "17_3"})
    runs["pretrain"].begin_attempt({"host": "here"})
    run = run_states(store, [runs["pretrain"].name], FakeQueue([], [KILLED]))[0][runs["pretrain"].name]
    assert (run.state, run.job) == ("stopped", None)


def test_a_run_that_ends_during_the_query_is_done_and_its_children_stay_queued(planned):
    """It has no result when the query begins, and its job has left the queue when that answers."""
    store, runs = planned
    runs["pretrain"].note_submission({"job": "17_3"})
    runs["knn"].note_submission({"job": "18_0"})

    def end():
        runs["pretrain"].work.mkdir()
        (runs["pretrain"].work / "weights.pt").write_bytes(b"")
        runs["pretrain"].finish({"kind": "pretrain"}, {})

    queue = FakeQueue([Job("18_0", "PENDING", "Dependency", "")], before=end)
    states, _ = run_states(store, [runs["pretrain"].name, runs["knn"].name], queue)
    assert [run.state for run in states.values()] == ["done", "queued"]


def test_a_damaged_file_of_one_run_is_named_and_hides_no_other(planned):
    store, runs = planned
    for run in (runs["pretrain"], runs["knn"]):
        run.note_submission({"job": "17_3"})
    (runs["pretrain"].path / "attempts").mkdir()
    (runs["pretrain"].path / "attempts" / "20991231T000000.json").write_text("{torn")
    states, _ = run_states(store, [run.name for run in runs.values()], FakeQueue())
    assert "not readable as JSON" in states[runs["pretrain"].name].reason
    assert len(states) == len(runs)


def test_a_run_of_an_interactive_session_is_not_one_of_our_jobs(planned, monkeypatch):
    store, runs = planned
    monkeypatch.setenv("SLURM_JOB_ID", "999")
    lease = runs["pretrain"].acquire()
    queue = FakeQueue(before=lambda: pytest.fail("nothing was submitted"))
    run = run_states(store, [runs["pretrain"].name], queue)[0][runs["pretrain"].name]
    assert (run.state, run.job, run.owner["job"]) == ("running", None, "999")
    lease.release()


def test_why_shows_the_ancestor_that_failed_and_the_end_of_its_log(planned):
    store, runs = planned
    attempt = runs["pretrain"].begin_attempt({"host": "here"})
    runs["pretrain"].fail(attempt, ValueError("the loss is not finite"))
    runs["pretrain"].work.mkdir()
    (runs["pretrain"].work / "log.txt").write_text("one line\nanother line\n")
    shown = "\n".join(why_lines(store, runs["knn"]))
    for words in (f"blocked: by {runs['pretrain'].name}", "failed: ValueError: the loss is not finite", "another line"):
        assert words in shown


def test_why_shows_what_a_run_waits_for_or_that_it_is_ready(planned):
    store, runs = planned
    assert f"waiting for its features: {runs['features'].name}: planned" in "\n".join(why_lines(store, runs["knn"]))
    assert "ready to run" in "\n".join(why_lines(store, runs["pretrain"]))


def test_a_run_is_found_by_a_prefix_of_its_name_or_hash(planned):
    store, runs = planned
    assert find_run(store, runs["knn"].name).name == runs["knn"].name
    assert find_run(store, "fin").name == runs["finetune"].name
    assert find_run(store, runs["knn"].name.rpartition("-")[2][:6]).name == runs["knn"].name
    with pytest.raises(UserError, match="no run 'nothing'"):
        find_run(store, "nothing")
    with pytest.raises(UserError, match="matches"):
        find_run(store, "")


def test_status_counts_the_done_runs_of_a_cell_and_the_states_of_the_others(tmp_path):
    store = Store(tmp_path)
    done, running, failed, *others = (planned_run(store, "finetune", "mixed", seed) for seed in range(4))
    complete = [planned_run(store, "knn", "complete", seed) for seed in range(2)]
    for run, base in [(done, FINETUNE), *((run, KNN) for run in complete)]:
        finish(run, evaluation(base, 50.0))
    failed.fail(failed.begin_attempt({}), ValueError("the cause"))
    rows = [
        {
            "name": "mixed",
            "runs": {str(n): {"finetune": r.name} for n, r in enumerate([done, running, failed, *others])},
        },
        {"name": "complete", "runs": {str(n): {"knn": run.name} for n, run in enumerate(complete)}},
    ]
    write_grid(store, rows, [column(FINETUNE, "Fine-tune"), column(KNN, "kNN")], [0, 1, 2, 3])
    lease = running.acquire()
    heading, *table = status(store)[0][1:4]
    lease.release()
    cells = {name: dict(zip(heading.split(), rest, strict=True))
             for name, *rest in (re.split(r"\s{2,}", line.strip()) for line in table)}  # fmt: skip
    assert cells == {"mixed": {"finetune": "1/4 1r 1f", "knn": "-"}, "complete": {"finetune": "-", "knn": "2/2"}}


def test_runs_can_be_planned_from_their_folders_only(tmp_path):
    plan, store = make_plan(load_grid(GRID, scale="smoke", seeds=1)), Store(tmp_path)
    for run in plan.runs.values():
        store.run(run.name).create(run.spec)
    leaves = [name for name, run in plan.runs.items() if run.kind == "finetune"]
    found = from_folders(leaves, store)
    assert all(found[name] == plan.runs[name] for name in found)
    assert set(found) == {
        n
        for n, run in plan.runs.items()
        if run.kind in ("tokenizer", "pretrain", "features", "linear_probe", "finetune")
    }


# doctor


def test_doctor_shows_this_machine_and_its_problems(tmp_path, capsys, monkeypatch):
    assert main(["doctor", "--results", str(tmp_path / "results")]) in (0, 1)  # 1 if the disk is nearly full
    shown = capsys.readouterr().out
    for words in ("versions: mimbench", "precision:", "writes", "data: shapes"):
        assert words in shown
    monkeypatch.setenv("MIMBENCH_DATA", str(tmp_path / "nowhere"))
    assert main(["doctor", "--results", str(tmp_path / "results")]) == 1
    assert "BAD  data: MIMBENCH_DATA" in capsys.readouterr().out


def software_warnings(tmp_path):
    """What doctor warns of before it comes to the devices."""
    lines = itertools.takewhile(lambda line: "GPU" not in line, doctor.report(Store(tmp_path), None))
    return [line for line in lines if line.startswith("warn")]


def test_doctor_warns_of_a_torchvision_that_was_built_for_another_torch(tmp_path, monkeypatch):
    for missing in (True, False):
        monkeypatch.setattr(compat, "operators_were_missing", missing)
        warned = any("its compiled operators do not load" in line for line in software_warnings(tmp_path))
        assert warned == missing


@pytest.mark.parametrize(
    ("files", "loads"),
    [(["_C.so"], True), (["_C.so"], False), ([], False)],
    ids=["loads", "does not load", "is absent"],
)
def test_compat_declares_the_operators_only_if_torchvisions_own_do_not_load(tmp_path, monkeypatch, files, loads):
    torchvision = ModuleType("torchvision")
    torchvision.__spec__ = ModuleSpec("torchvision", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setitem(sys.modules, "torchvision", torchvision)
    for name in files:
        (tmp_path / name).write_bytes(b"no library")
    if loads:
        monkeypatch.setattr(compat.torch.ops, "load_library", lambda path: None)
    assert compat.declare_missing_operators() != loads


def test_doctor_warns_of_two_distributions_with_one_import_name(tmp_path, monkeypatch):
    installed = [SimpleNamespace(name=name) for name in ("mmcv", "onedl-mmcv", "onedl-mmengine")]
    monkeypatch.setattr(doctor.importlib.metadata, "distributions", lambda: installed)
    monkeypatch.setattr(compat, "operators_were_missing", False)
    warnings = software_warnings(tmp_path)
    assert len(warnings) == 1
    assert "mmcv and onedl-mmcv are both installed" in warnings[0]
