"""Profiles, arrays, the queue's answers and jobs, without a cluster."""

from __future__ import annotations

import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from mimbench.cli.commands import main
from mimbench.config.grid import load_grid
from mimbench.errors import RunFailed, UserError
from mimbench.launch.queue import QueueUnavailable
from mimbench.plan.graph import Planned, make_plan
from mimbench.runtime import Stop
from mimbench.slurm import job, queue
from mimbench.slurm.arrays import arrays
from mimbench.slurm.distributed import Ranks
from mimbench.slurm.profile import known, load_profile
from mimbench.slurm.submit import accumulation, check, scripts
from mimbench.store.results import Store

GRID = str(ROOT / "configs" / "ablations.yaml")


def profile_of(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return load_profile(str(path))


@pytest.fixture
def pretraining(tmp_path):
    """A results folder, and the folder of a planned pre-training in it."""
    plan, store = make_plan(load_grid(GRID, scale="smoke", seeds=1, only=("no-tokens",))), Store(tmp_path / "results")
    run = next(run for run in plan.runs.values() if run.kind == "pretrain")
    store.run(run.name).create(run.spec)
    return store, store.run(run.name)


# profiles


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("partitoin: gpu", "Did you mean 'partition'"),
        ("throttle: 4", "Since 0.2 it is max_parallel"),
        ("kinds: {pretrian: {hours: 3}}", "Did you mean 'pretrain'"),
        ("kinds: {pretrain: {hour: 3}}", "kinds.pretrain"),
        ("nodes: 0", "nodes: must be at least 1"),
        ("hours: -1", "hours: must be greater than 0"),
        ("hours: 0.02", "hours: 0.02 h is too short"),
        ("gpus: 8\nranks: 4", "one process per GPU"),
        ("kinds: {knn: {nodes: 2}}", "nodes and ranks must be 1 for knn"),
        ("kinds: {segmentation: {ranks: 2}}", "needs GPUs"),
        ("extra: {dependency: singleton}", "extra.dependency: is set by mimbench"),
        ("extra: 3", "extra: must map"),
        ("cpus: many", "cpus"),
        ("kinds: 3", "kinds: must map"),
    ],
)
def test_a_wrong_profile_is_an_error_that_names_its_key(tmp_path, text, words):
    with pytest.raises(UserError, match=r"mine\.yaml") as error:
        profile_of(tmp_path, text)
    assert words in str(error.value)


def test_an_unknown_profile_is_an_error_that_lists_the_profiles():
    with pytest.raises(UserError, match=r"Did you mean 'trial'.*Allowed: .*gpu") as error:
        load_profile("trail")
    assert ".config/mimbench/profiles" in str(error.value)


def test_a_users_own_profile_overrides_one_that_ships(tmp_path, monkeypatch):
    folder = tmp_path / "mimbench" / "profiles"
    folder.mkdir(parents=True)
    (folder / "trial.yaml").write_text("partition: mine")
    (folder / "other.yaml").write_text("partition: other")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert load_profile("trial").of("knn").partition == "mine"
    assert {"other", "trial", "gpu"} <= set(known())


def test_keys_under_a_kind_apply_to_that_kind_only(tmp_path):
    profile = profile_of(
        tmp_path, "gpus: 2\nextra: {constraint: a}\nkinds: {pretrain: {gpus: 8, nodes: 2, extra: {mail-user: me}}}"
    )
    assert (profile.of("pretrain").world, profile.of("finetune").world, profile.of("knn").world) == (16, 2, 1)
    assert profile.of("pretrain").extra == {"constraint": "a", "mail-user": "me"}


def test_a_number_of_ranks_that_does_not_divide_the_batch_is_an_error(tmp_path):
    plan = make_plan(load_grid(GRID, scale="smoke", seeds=1, only=("no-tokens",)))
    with pytest.raises(UserError, match=r"the batch of 32 of pretrain-.* cannot be divided"):
        check(plan.runs, profile_of(tmp_path, "kinds: {pretrain: {ranks: 3}}"))
    profile = profile_of(tmp_path, "kinds: {pretrain: {ranks: 4, micro_batch: 4}}")
    spec = next(run.spec for run in plan.runs.values() if run.kind == "pretrain")
    assert accumulation(spec, profile.of("pretrain")) == "batch 32 = 4 ranks x 2 micro-batches of 4"


@pytest.mark.parametrize("on", ["slrum", "local:0", "local:x", "slurm:nowhere", "slurm", "slurm:"])
def test_a_wrong_value_of_on_is_an_error_before_anything_is_computed(tmp_path, capsys, on):
    words = ["run", "grid", GRID, "--scale", "smoke", "--on", on, "--results", str(tmp_path / "results")]
    assert main(words) == 2
    assert "--on" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_without_slurms_commands_a_submission_is_an_error(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(queue.shutil, "which", lambda name: None)
    words = ["run", "grid", GRID, "--scale", "smoke", "--on", "slurm:trial", "--results", str(tmp_path / "results")]
    assert main(words) == 2
    assert "not installed here" in capsys.readouterr().err


# arrays


@st.composite
def graphs(draw):
    """Runs of a few kinds, each with some earlier ones as parents."""
    runs = {}
    for index in range(draw(st.integers(1, 25))):
        kind = draw(st.sampled_from(["tokenizer", "pretrain", "finetune", "knn"]))
        parents = draw(st.lists(st.sampled_from(sorted(runs)), max_size=3, unique=True)) if runs else []
        name = f"{kind}-{index:012x}"
        runs[name] = Planned(name, {"kind": kind, "parents": dict(enumerate(parents))})
    return runs


@settings(max_examples=200)
@given(runs=graphs(), most=st.integers(1, 7))
def test_an_array_has_one_kind_and_comes_after_the_arrays_of_its_parents(runs, most):
    before = set()
    for array in arrays(runs, most):
        assert 1 <= len(array) <= most
        assert len({run.kind for run in array}) == 1
        for run in array:
            assert set(run.parents) <= before
            assert run.name not in before
        before |= {run.name for run in array}
    assert before == set(runs)


def test_a_grid_needs_one_array_per_kind(tmp_path):
    plan = make_plan(load_grid(GRID, scale="smoke", seeds=3))
    profile = profile_of(tmp_path, "max_parallel: 4\npartition: p")
    made = list(scripts(plan.runs, ("ablations", "smoke"), Store(tmp_path), profile))
    assert sorted(array[0].kind for array, _ in made) == sorted({run.kind for run in plan.runs.values()})
    for array, script in made:
        for words in (f"--array=0-{len(array) - 1}%", "--partition=p", "--hold", str(tmp_path)):
            assert words in script


# the queue


def test_a_task_that_squeue_shows_only_by_name_is_found_and_a_foreign_job_is_not(monkeypatch):
    answers = {"17": "17_0|PENDING|None|||mimbench a.tiny knn|\n", "18": "18|RUNNING|None|n1||their own|\n",
               "17_1": "17_1|PENDING|Priority|||mimbench a.tiny knn|\n"}  # fmt: skip

    def ask(*words):
        names = next(w for w in words if w.startswith("--jobs=")).removeprefix("--jobs=").split(",")
        return "".join(answers.get(name, "") for name in names)

    monkeypatch.setattr(queue, "ask", ask)
    assert {name: job.waiting for name, job in queue.queued(["17_0", "17_1", "18"]).items()} == {
        "17_0": True,
        "17_1": True,
    }


# jobs


@pytest.fixture
def started(pretraining, monkeypatch):
    """Starts job 17 of a run that this process holds; returns the list of the jobs that were requeued."""
    store, folder = pretraining
    requeued = []
    monkeypatch.setattr(job, "PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(job, "HELD_SECONDS", 0.05)
    monkeypatch.setattr(Ranks, "here", lambda: Ranks(0, 0, 1))
    monkeypatch.setattr(queue, "state_of", lambda name: "RUNNING")
    monkeypatch.setattr(queue, "requeue", requeued.append)
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    # the process of these tests keeps its output, its signal handlers and its path, and survives
    monkeypatch.setattr(job, "log_to", lambda path: None)
    monkeypatch.setattr(Stop, "listen", lambda stop: None)
    monkeypatch.setattr(Stop, "ignore", lambda stop: None)
    monkeypatch.setattr(job.sys, "path", [*job.sys.path])
    monkeypatch.setattr(job.os, "_exit", lambda code: pytest.fail("the job took the run for done"))
    limits = {"grace_seconds": 15, "max_requeues": 2, "max_stalled_requeues": 9}

    def start():
        job.RunJob(str(store.root), folder.name, {}, limits, "")()
        return requeued

    lease = folder.acquire()
    yield start
    lease.release()


def test_a_job_whose_run_is_held_is_requeued_after_a_while(started, pretraining, capsys):
    assert started() == ["17"]
    assert "requeued" in capsys.readouterr().out
    assert not pretraining[1].attempts()


def test_a_requeue_that_ends_its_own_command_before_it_answers_is_said(started, monkeypatch, capsys):
    """SLURM ends all that the job runs, `scontrol` among it."""
    states = []

    def requeue(name):
        states.append("PENDING")
        raise QueueUnavailable("scontrol: exit code -15")

    monkeypatch.setattr(queue, "requeue", requeue)
    monkeypatch.setattr(queue, "state_of", lambda name: states[-1] if states else "RUNNING")
    started()
    assert "saved, stopped and requeued" in capsys.readouterr().out


def test_only_a_jobs_own_starts_of_the_run_count_against_its_limits(started, pretraining, monkeypatch):
    """However often SLURM restarted it: it may have waited for another process."""
    _, folder = pretraining
    monkeypatch.setenv("SLURM_RESTART_COUNT", "99")
    for _ in range(3):
        folder.begin_attempt({"slurm_job": "5"})
    assert started() == ["17"]
    for _ in range(3):
        folder.begin_attempt({"slurm_job": "17"})
    with pytest.raises(RunFailed, match="requeued 3 times"):
        started()
    assert "max_requeues is 2" in folder.last_failure()["message"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('partition: "gpu\\n#SBATCH --uid=0"', "partition"), ('account: "a\\nb"', "account"), ('qos: "a\\n"', "qos"),
        ('python: "python\\nrm"', "python"), ('srun: ["--a\\n#SBATCH"]', "srun.0"),
        ('extra: {constraint: "a\\nb"}', "extra.constraint"), ('extra: {"a\\nb": 1}', "extra"),
        ("memory_gb: 1e-9", "memory_gb: must be at least 0.1"),
    ],
)  # fmt: skip
def test_no_value_of_a_profile_becomes_a_line_of_the_script(tmp_path, text, words):
    with pytest.raises(UserError) as caught:
        load_profile(profile_of(tmp_path, text))
    assert words in str(caught.value)
    assert "must be" in str(caught.value)


def test_no_results_path_becomes_a_line_of_the_script(tmp_path):
    from mimbench.slurm.sbatch import comment_of

    with pytest.raises(UserError, match="jobs need a path on one line"):
        comment_of(Store(tmp_path / "a\n#SBATCH --uid=0"))


def test_what_sbatch_answers_is_spelled_out_for_the_terminal(tmp_path, monkeypatch, capsys):
    from mimbench.cli.dispatch import Dispatch
    from mimbench.slurm import submit

    grid, store, profile = ("mine", "smoke"), Store(tmp_path), profile_of(tmp_path, "partition: main")
    answer = submit.Submission(grid, store, profile, {}, refused={"knn-0": "sbatch: \x1b[2Jno such partition"})
    monkeypatch.setattr(submit, "submit", lambda *_: answer)
    assert Dispatch(store, grid, {}, []).submit({}, profile) == 1
    assert "sbatch: \\x1b[2Jno such partition" in capsys.readouterr().err
