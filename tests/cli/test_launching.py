"""Profiles, arrays and what status tells: without a cluster. On a real one: test_slurm.py."""

from __future__ import annotations

import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from mimbench.cli.commands import main
from mimbench.cli.status import _cell, status, why_lines
from mimbench.config.grid import load_grid
from mimbench.errors import Interrupted, RunFailed, UserError
from mimbench.launch.local import from_folders
from mimbench.launch.state import find_run, look, runs_of
from mimbench.plan.graph import Planned, make_plan
from mimbench.runtime import Stop
from mimbench.slurm import job, queue
from mimbench.slurm.distributed import Ranks
from mimbench.slurm.profile import known, load_profile
from mimbench.slurm.submit import accumulation, check, groups, scripts
from mimbench.store.records import read_grid
from mimbench.store.results import Store

GRID = str(ROOT / "configs" / "ablations.yaml")


def profile_of(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return load_profile(str(path))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("partitoin: gpu", "Did you mean 'partition'"),
        ("kinds: {pretrian: {hours: 3}}", "Did you mean 'pretrain'"),
        ("kinds: {pretrain: {hour: 3}}", "kinds.pretrain"),
        ("nodes: 0", "nodes: must be at least 1"),
        ("hours: -1", "hours: must be more than 0"),
        ("hours: 0.02", "leave no time before the signal"),
        ("gpus: 8\nranks: 4", "one process a GPU"),
        ("kinds: {knn: {nodes: 2}}", "a knn runs in one process"),
        ("kinds: {segmentation: {ranks: 2}}", "needs GPUs"),
        ("extra: {dependency: singleton}", "set by mimbench itself"),
        ("extra: 3", "extra: must map"),
        ("cpus: many", "cpus"),
        ("kinds: 3", "kinds: must map"),
    ],
)
def test_a_wrong_profile_is_named_with_its_key_before_anything_is_submitted(tmp_path, text, words):
    with pytest.raises(UserError, match=r"mine\.yaml") as error:
        profile_of(tmp_path, text)
    assert words in str(error.value)


def test_an_unknown_profile_is_answered_with_those_there_are():
    with pytest.raises(UserError, match=r"Did you mean 'trial'.*Allowed: .*gpu") as error:
        load_profile("trail")
    assert ".config/mimbench/profiles" in str(error.value)


def test_a_users_own_profile_counts_before_one_that_ships(tmp_path, monkeypatch):
    folder = tmp_path / "mimbench" / "profiles"
    folder.mkdir(parents=True)
    (folder / "trial.yaml").write_text("partition: mine")
    (folder / "other.yaml").write_text("partition: other")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert load_profile("trial").of("knn").partition == "mine"
    assert {"other", "trial", "gpu"} <= set(known())


def test_what_stands_under_a_kind_counts_for_that_kind_alone(tmp_path):
    profile = profile_of(
        tmp_path, "gpus: 2\nextra: {constraint: a}\nkinds: {pretrain: {gpus: 8, nodes: 2, extra: {mail-user: me}}}"
    )
    assert (profile.of("pretrain").world, profile.of("finetune").world, profile.of("knn").world) == (16, 2, 1)
    assert profile.of("pretrain").extra == {"constraint": "a", "mail-user": "me"}


def test_ranks_that_cannot_share_a_batch_are_refused(tmp_path):
    plan = make_plan(load_grid(GRID, scale="smoke", seeds=1, only=("no-tokens",)))
    with pytest.raises(UserError, match="cannot share pretrain's batch of 32 equally"):
        check(plan.runs, profile_of(tmp_path, "kinds: {pretrain: {ranks: 3}}"))
    profile = profile_of(tmp_path, "kinds: {pretrain: {ranks: 4, micro_batch: 4}}")
    spec = next(run.spec for run in plan.runs.values() if run.kind == "pretrain")
    assert accumulation(spec, profile.of("pretrain")) == "batch 32 = 4 ranks x 2 micro-batches of 4"


@st.composite
def graphs(draw):
    """Runs of a few kinds, each with some earlier ones as parents."""
    runs = {}
    for index in range(draw(st.integers(1, 25))):
        kind = draw(st.sampled_from(["tokenizer", "pretrain", "finetune", "knn"]))
        parents = draw(st.lists(st.sampled_from(sorted(runs)), max_size=3, unique=True)) if runs else []
        name = f"{kind}-{index:012x}"
        runs[name] = Planned(name, {"kind": kind}, tuple(parents))
    return runs


@settings(max_examples=200)
@given(runs=graphs(), most=st.integers(1, 7))
def test_arrays_hold_one_kind_each_run_once_and_parents_first(runs, most):
    before = set()
    for group in groups(runs, most):
        assert 1 <= len(group.runs) <= most
        assert {run.kind for run in group.runs} == {group.kind}
        for run in group.runs:
            assert set(run.parents) <= before
            assert run.name not in before
        before |= {run.name for run in group.runs}
    assert before == set(runs)


def test_a_grid_is_one_array_a_kind(tmp_path):
    plan = make_plan(load_grid(GRID, scale="smoke", seeds=3))
    made = list(
        scripts(plan.runs, ("ablations", "smoke"), Store(tmp_path), profile_of(tmp_path, "throttle: 4\npartition: p"))
    )
    assert [group.kind for group, _ in made] == list(dict.fromkeys(run.kind for run in plan.runs.values()))
    for group, script in made:
        assert f"--array=0-{len(group.runs) - 1}%" in script
        assert "--partition=p" in script
        assert "--hold" in script
        assert str(tmp_path) in script


def test_runs_can_be_planned_again_from_their_folders_alone(tmp_path):
    plan, store = make_plan(load_grid(GRID, scale="smoke", seeds=1)), Store(tmp_path)
    for run in plan.runs.values():
        store.run(run.name).create(run.spec)
    leaves = [name for name, run in plan.runs.items() if run.kind == "finetune"]
    found = from_folders(leaves, store)
    assert all(found[name] == plan.runs[name] for name in found)
    assert set(found) == {n for n, run in plan.runs.items() if run.kind in ("tokenizer", "pretrain", "finetune")}


# status, without a cluster


@pytest.fixture
def planned(tmp_path):
    from mimbench.launch.local import prepare

    plan, store = make_plan(load_grid(GRID, scale="smoke", seeds=1, only=("no-tokens",))), Store(tmp_path / "results")
    prepare(plan, store)
    return store, {run.kind: store.run(name) for name, run in plan.runs.items()}


def test_a_run_that_was_sent_and_cannot_be_asked_after_is_said_to_be_so(planned, monkeypatch):
    store, runs = planned
    runs["pretrain"].note_submission({"job": "17_3"})

    def silent(*_):
        raise queue.QueueSilent("squeue did not answer")

    monkeypatch.setattr(queue, "queued", silent)
    found, warning = look(store, [runs["pretrain"].name])
    assert found[runs["pretrain"].name].state == "queued"
    assert "squeue did not answer" in warning
    assert any("squeue did not answer" in line for line in status(store).lines)


def test_a_job_whose_run_is_taken_gives_its_nodes_back_after_a_while(planned, monkeypatch):
    store, runs = planned
    monkeypatch.setattr(job, "PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(job, "TAKEN_SECONDS", 0.05)
    monkeypatch.setattr(Ranks, "here", lambda: Ranks(0, 0, 1))
    held = runs["pretrain"].claim()
    with pytest.raises(Interrupted, match="another process is at this run"):
        job._carry_out(store, runs["pretrain"].name, Stop(), {})
    assert not runs["pretrain"].attempts()
    held.release()


def test_waiting_for_another_process_is_no_fruitless_start(planned, monkeypatch):
    """Only this job's own starts of the run count against its limits, however often SLURM restarted it."""
    folder, limits = planned[1]["pretrain"], {"max_requeues": 2, "fruitless": 9}
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "99")
    folder.begin_attempt({"slurm_job": "5"})
    job._refuse_endless(folder, limits)
    for _ in range(3):
        folder.begin_attempt({"slurm_job": "17"})
    with pytest.raises(RunFailed, match="requeued 3 times"):
        job._refuse_endless(folder, limits)
    assert "max_requeues is 2" in folder.last_failure()["message"]


def test_a_task_that_squeue_shows_only_by_name_is_found_and_a_strangers_job_is_not(monkeypatch):
    said = {"17": "17_0|mimbench a.tiny knn|PENDING|None|\n", "18": "18|their own|RUNNING|None|n1\n",
            "17_1": "17_1|mimbench a.tiny knn|PENDING|Priority|\n"}  # fmt: skip

    def ask(*words):
        names = next(w for w in words if w.startswith("--jobs=")).removeprefix("--jobs=").split(",")
        return "".join(said.get(name, "") for name in names)

    monkeypatch.setattr(queue, "ask", ask)
    assert queue.queued(["17_0", "17_1", "18"]).keys() == {"17_0", "17_1"}


@pytest.mark.parametrize("over", [{"cancelled": "17_3"}, {"job": "17_3"}])
def test_a_job_that_is_ending_is_queued_only_if_it_comes_back(planned, monkeypatch, over):
    folder = planned[1]["pretrain"]
    folder.note_submission(over)
    monkeypatch.setattr(queue, "queued", lambda ids: {"17_3": queue.Job("17_3", "COMPLETING", "None", "n4")})
    monkeypatch.setattr(queue, "ended", lambda ids: {})
    one = look(planned[0], [folder.name])[0][folder.name]
    assert (one.state, one.alive) == (("planned", False) if "cancelled" in over else ("running", True))


@pytest.mark.parametrize(
    ("alive", "ended", "state", "words"),
    [
        ({"17_3": queue.Job("17_3", "PENDING", "Resources", "")}, {}, "queued", "waits for free resources"),
        ({"17_3": queue.Job("17_3", "RUNNING", "None", "n4")}, {}, "running", "on n4 (job 17_3)"),
        ({}, {"17_3": queue.Job("17_3", "OUT_OF_MEMORY", "exit code 0:125", "n4")}, "failed", "OUT_OF_MEMORY"),
        ({}, {"17_3": queue.Job("17_3", "CANCELLED", "exit code 0:0", "n4")}, "planned", "was cancelled"),
        ({}, {}, "failed", "the accounting says nothing of it"),
    ],
)
def test_what_the_queue_knows_counts_where_a_folder_cannot_know(planned, monkeypatch, alive, ended, state, words):
    store, runs = planned
    runs["pretrain"].note_submission({"job": "17_3"})
    monkeypatch.setattr(queue, "queued", lambda ids: alive)
    monkeypatch.setattr(queue, "ended", lambda ids: ended)
    found, _ = look(store, runs_of(read_grid(store.grid_path("ablations", "smoke"))))
    one = found[runs["pretrain"].name]
    assert one.state == state
    assert words in one.detail
    assert (found[runs["knn"].name].state == "blocked") == (state == "failed")


def test_a_run_that_ends_while_one_looks_is_done_and_its_children_stay_queued(planned, monkeypatch):
    """It was in no result yet when its folder was read, and in no queue any more when that was asked."""
    store, runs = planned
    runs["pretrain"].note_submission({"job": "17_3"})
    runs["knn"].note_submission({"job": "18_0"})

    def ends_now(ids):
        runs["pretrain"].work.mkdir()
        (runs["pretrain"].work / "weights.pt").write_bytes(b"")
        runs["pretrain"].finish({"kind": "pretrain"}, {})
        return {"18_0": queue.Job("18_0", "PENDING", "Dependency", "")}

    monkeypatch.setattr(queue, "queued", ends_now)
    monkeypatch.setattr(queue, "ended", lambda ids: {})
    found, _ = look(store, [runs["pretrain"].name, runs["knn"].name])
    assert (found[runs["pretrain"].name].state, found[runs["knn"].name].state) == ("done", "queued")


def test_a_broken_file_of_one_run_is_named_and_hides_no_other(planned, monkeypatch):
    store, runs = planned
    for run in (runs["pretrain"], runs["knn"]):
        run.note_submission({"job": "17_3"})
    (runs["pretrain"].path / "attempts").mkdir()
    (runs["pretrain"].path / "attempts" / "20991231T000000.json").write_text("{torn")
    monkeypatch.setattr(queue, "queued", lambda ids: {})
    monkeypatch.setattr(queue, "ended", lambda ids: {})
    found, _ = look(store, [run.name for run in runs.values()])
    assert "not readable as JSON" in found[runs["pretrain"].name].detail
    assert len(found) == len(runs)


def test_a_claim_from_an_interactive_session_is_no_job_of_ours(planned, monkeypatch):
    store, runs = planned
    monkeypatch.setenv("SLURM_JOB_ID", "999")
    claim = runs["pretrain"].claim()
    monkeypatch.setattr(queue, "queued", lambda ids: pytest.fail("nothing was submitted"))
    found, _ = look(store, [runs["pretrain"].name])
    assert found[runs["pretrain"].name].state == "running"
    assert found[runs["pretrain"].name].job is None
    claim.release()


def test_why_tells_the_ancestor_that_failed_and_the_end_of_its_log(planned):
    store, runs = planned
    attempt = runs["pretrain"].begin_attempt({"host": "here"})
    runs["pretrain"].fail(attempt, ValueError("the loss fell over"))
    runs["pretrain"].work.mkdir()
    (runs["pretrain"].work / "log.txt").write_text("one line\nanother line\n")
    said = "\n".join(why_lines(store, runs["knn"]))
    for words in (f"blocked by {runs['pretrain'].name}", "the loss fell over", "another line"):
        assert words in said
    waiting = "\n".join(why_lines(store, find_run(store, runs["pretrain"].name.rpartition("-")[2][:6])))
    assert "failed ValueError: the loss fell over" in waiting


def test_a_run_is_found_by_the_beginning_of_its_name_or_hash(planned):
    store, runs = planned
    assert find_run(store, runs["knn"].name).name == runs["knn"].name
    assert find_run(store, "segm").name == runs["segmentation"].name
    with pytest.raises(UserError, match="no run 'nothing'"):
        find_run(store, "nothing")
    with pytest.raises(UserError, match="may be any of"):
        find_run(store, "")


def test_a_cell_counts_what_is_done_and_what_the_rest_is_at():
    assert _cell([]) == "-"
    assert _cell(["done", "done"]) == "2/2"
    assert _cell(["done", "running", "failed", "planned"]) == "1/4 1r 1f"


@pytest.mark.parametrize("on", ["slrum", "local:0", "local:x", "slurm:nowhere", "slurm", "slurm:"])
def test_a_wrong_place_is_answered_before_anything_is_computed(tmp_path, capsys, on):
    words = ["run", "grid", GRID, "--scale", "smoke", "--on", on, "--results", str(tmp_path / "results")]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "--on" in said
    assert not (tmp_path / "results").exists()


def test_a_cluster_that_is_not_there_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(queue.shutil, "which", lambda name: None)
    words = ["run", "grid", GRID, "--scale", "smoke", "--on", "slurm:trial", "--results", str(tmp_path / "results")]
    assert main(words) == 2
    assert "not installed here" in capsys.readouterr().err


def test_doctor_tells_this_machine_and_what_is_wrong_with_it(tmp_path, capsys, monkeypatch):
    assert main(["doctor", "--results", str(tmp_path / "results")]) in (0, 1)  # 1 where the disk is nearly full
    said = capsys.readouterr().out
    for words in ("versions: mimbench", "precision:", "writes", "data: shapes"):
        assert words in said
    monkeypatch.setenv("MIMBENCH_DATA", str(tmp_path / "nowhere"))
    assert main(["doctor", "--results", str(tmp_path / "results")]) == 1
    assert "BAD data: MIMBENCH_DATA" in capsys.readouterr().out
