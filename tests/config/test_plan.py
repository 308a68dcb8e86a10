"""A grid as a graph of runs: shared where they compute the same, apart where they do not."""

from __future__ import annotations

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mimbench.config.grid import load_grid
from mimbench.launch import local as launch
from mimbench.plan.graph import describe, estimate, make_plan
from mimbench.report.build import build_report
from mimbench.store.files import read_json
from mimbench.store.results import run_name

EVALUATIONS = {"finetune", "segmentation", "linear_probe", "knn"}


def plan_of(path, *sets, **more):
    return make_plan(load_grid(path, scale="smoke", sets=sets, **more))


def test_rows_share_their_tokenizer_and_nothing_they_should_not(ablations):
    plan = plan_of(ablations, seeds=2)
    kinds = [run.kind for run in plan.runs.values()]
    assert kinds.count("tokenizer") == 2  # one a seed, for four rows
    assert kinds.count("pretrain") == 2 * 6
    assert all(kinds.count(kind) == 2 * 7 for kind in EVALUATIONS)


def test_parents_come_before_their_children_and_seeds_one_after_another(ablations):
    plan = plan_of(ablations, seeds=3)
    order = {name: index for index, name in enumerate(plan.runs)}
    assert all(order[parent] < order[name] for name, run in plan.runs.items() for parent in run.parents)
    seeds = [run.spec["seed"] for run in plan.runs.values()]
    assert seeds == sorted(seeds)


def test_every_name_is_the_hash_of_its_spec(ablations):
    assert all(run_name(run.spec) == name for name, run in plan_of(ablations, seeds=1).runs.items())


def test_two_rows_that_say_the_same_are_the_same_runs(tmp_path):
    path = tmp_path / "same.yaml"
    path.write_text(
        "base: beit\nseeds: 1\nprotocols: [knn]\nrows:\n- {name: a}\n- {name: b, masker: {type: blockwise, ratio: 0.4}}\n"
    )
    plan = plan_of(str(path))
    assert plan.rows["a"] == plan.rows["b"]
    assert len(plan.runs) == 3


def test_editing_a_protocol_touches_that_evaluation_alone(ablations):
    before, after = plan_of(ablations, seeds=1), plan_of(ablations, "protocols.knn.temperature=0.1", seeds=1)
    changed = {run.kind for name, run in after.runs.items() if name not in before.runs}
    assert changed == {"knn"}
    assert sum(name in before.runs for name in after.runs) == len(before.runs) - 7


def test_another_mask_leaves_tokenizer_and_scratch_as_they_are(ablations):
    before, after = plan_of(ablations, seeds=1), plan_of(ablations, "loss.over=all", seeds=1, only=("beit", "scratch"))
    kept = {run.kind for name, run in after.runs.items() if name in before.runs}
    assert kept == {"tokenizer", *EVALUATIONS, "pretrain"}  # BEiT with over: all is the row recover-all
    assert after.rows["scratch"] == before.rows["scratch"]
    assert after.rows["beit"] == before.rows["recover-all"]


def test_what_goes_to_gpus_is_planned_the_same_wherever_it_is_sent_from(ablations, monkeypatch):
    """A login node has no GPU: it must not decide that the jobs compute in float32."""
    grid, names = load_grid(ablations, seeds=1), set()
    for pays in (True, False):
        monkeypatch.setattr("mimbench.env.bf16_pays", lambda pays=pays: pays)
        plan = make_plan(grid, on_gpus=True)
        assert plan.precision == "bf16"
        names.add(frozenset(plan.runs))
    assert len(names) == 1


@settings(max_examples=20)
@given(first=st.integers(1, 4), second=st.integers(1, 4))
def test_more_seeds_keep_every_run_of_fewer(ablations, first, second):
    few, many = plan_of(ablations, seeds=min(first, second)), plan_of(ablations, seeds=max(first, second))
    assert few.runs.keys() <= many.runs.keys()


def test_where_a_run_is_launched_is_not_hashed(ablations):
    text = str([run.spec for run in plan_of(ablations, seeds=1).runs.values()])
    for word in ("workers", "host", "partition", "results", "checkpoint_seconds"):
        assert word not in text


def test_the_record_keeps_seeds_and_rows_of_earlier_calls(ablations, store):
    launch.prepare(plan_of(ablations, seeds=2), store)
    launch.prepare(plan_of(ablations, seeds=1, only=("beit",)), store)
    record = read_json(store.grid_path("ablations", "smoke"))
    assert record["seeds"] == [0, 1]
    assert all(set(row["runs"]) == {"0", "1"} for row in record["rows"])


def test_seeds_that_a_list_once_named_leave_the_record_with_the_list(tmp_path, store):
    """Settings may have been chosen on them."""
    path = tmp_path / "mine.yaml"
    grid = {"name": "mine", "base": "beit", "scale": "smoke", "protocols": ["knn"], "rows": [{"name": "beit"}]}
    for seeds, more, expected in (
        ([100, 101], {}, [100, 101]),
        (2, {}, [0, 1]),
        (2, {"seeds": 4}, [0, 1, 2, 3]),
        (2, {}, [0, 1, 2, 3]),
        ([0, 2], {}, [0, 2]),
        ([0, 2], {"seeds": 1}, [0]),
    ):
        path.write_text(yaml.safe_dump({**grid, "seeds": seeds}))
        launch.prepare(plan_of(str(path), **more), store)
        record = read_json(store.grid_path("mine", "smoke"))
        assert record["seeds"] == expected
        assert sorted(map(int, record["rows"][0]["runs"])) == expected


def test_a_row_that_the_scale_leaves_out_is_in_the_record_once_it_was_asked_for(ablations, store):
    names = lambda: [row["name"] for row in read_json(store.grid_path("ablations", "smoke"))["rows"]]
    launch.prepare(plan_of(ablations, seeds=1), store)
    assert "longer" not in names()
    launch.prepare(plan_of(ablations, seeds=1, only=("longer",)), store)
    assert names()[-2:] == ["longer", "scratch"]
    launch.prepare(plan_of(ablations, seeds=2), store)
    record = read_json(store.grid_path("ablations", "smoke"))
    assert {row["name"]: len(row["runs"]) for row in record["rows"]} == {
        name: 1 + (name != "longer") for name in names()
    }


def test_a_reference_and_a_primary_row_that_the_scale_leaves_out_do_not_end_the_report(tmp_path, store):
    rows = [{"name": "beit", "left_out_at": ["smoke"]}, {"name": "scratch", "pretrain": False},
            {"name": "longer", "schedule": {"longer": 2}, "left_out_at": ["smoke"]},
            {"name": "longest", "schedule": {"longer": 3}, "left_out_at": ["smoke"]}]  # fmt: skip
    path = tmp_path / "mine.yaml"
    grid = {"name": "mine", "base": "beit", "scale": "smoke", "protocols": ["knn"], "rows": rows, "reference": "beit",
            "primary": {"row": "longer", "protocol": "knn"}}  # fmt: skip
    path.write_text(yaml.safe_dump(grid))
    launch.prepare(plan_of(str(path)), store)
    build_report(store, "mine", "smoke")
    assert [row["name"] for row in read_json(store.grid_path("mine", "smoke"))["rows"]] == ["beit", "scratch", "longer"]


def test_the_record_never_mixes_two_definitions_of_a_row(ablations, store):
    """Other seeds, or other rows, of another recipe: what was there before is dropped, not averaged in."""
    launch.prepare(plan_of(ablations, seeds=1), store)
    plan = plan_of(ablations, "schedule.lr=1e-4", seeds=2, only=("beit",))
    plan.rows["beit"].pop(0)  # as if seed 1 alone had been asked for
    launch.prepare(plan, store)
    record = read_json(store.grid_path("ablations", "smoke"))
    rows = {row["name"]: set(row["runs"]) for row in record["rows"]}
    assert rows["beit"] == {"1"}
    assert rows["no-blockwise"] == set()
    assert rows["scratch"] == {"0"}  # not touched by the pre-training's rate
    assert "schedule.lr=1e-4" in record["note"]


def test_a_parent_whose_weights_are_lost_is_wanted_again(ablations, store):
    plan = plan_of(ablations, seeds=1, only=("no-tokens",))
    launch.prepare(plan, store)
    names = plan.rows["no-tokens"][0]
    parent = store.run(names["pretrain"])
    parent.finish({"metrics": {}, "weights_sha256": "x"}, {})
    assert names["pretrain"] in launch.wanted(plan.runs, store)
    parent.work.mkdir()
    (parent.work / "weights.pt").write_bytes(b"")
    assert names["pretrain"] not in launch.wanted(plan.runs, store)
    for kind in EVALUATIONS:
        store.run(names[kind]).finish({}, {})
    (parent.work / "weights.pt").unlink()
    assert not launch.wanted(plan.runs, store)  # nobody needs them any more


def test_an_estimate_counts_what_is_done_and_uses_recorded_costs(ablations, store):
    plan = plan_of(ablations, seeds=1)
    first = {row.kind: row for row in estimate(plan, store)}
    assert first["tokenizer"].shared == 1
    assert not first["knn"].measured
    launch.prepare(plan, store)
    store.run(plan.rows["beit"][0]["knn"]).finish({}, {"seconds": 7.0})
    knn = {row.kind: row for row in estimate(plan, store)}["knn"]
    assert (knn.done, knn.measured, knn.seconds) == (1, True, 6 * 7.0)


def test_a_row_is_described_in_a_few_words(ablations):
    rows = {row.name: describe(row) for row in load_grid(ablations).rows}
    assert rows["beit"] == "dvae, blockwise masking, cross_entropy over masked positions, 1500 steps"
    assert "over all positions" in rows["recover-all"]
    assert rows["longer"].endswith("masked positions, 4000 steps")
    assert rows["scratch"] == "no pre-training"
