"""A grid as a graph of runs: shared where they compute the same, apart where they do not."""

from __future__ import annotations

import copy

import grids
import pytest
import yaml
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from mimbench.config.grid import load_grid
from mimbench.errors import UserError
from mimbench.kinds import KINDS
from mimbench.plan.description import describe
from mimbench.plan.estimate import complete, estimate
from mimbench.plan.graph import make_plan, wanted
from mimbench.plan.record import prepare, record
from mimbench.store.files import read_json
from mimbench.store.records import read_grid, write_record
from mimbench.store.results import run_name

EVALUATIONS = {"features", "finetune", "segmentation", "segmentation_linear", "linear_probe", "knn"}


def plan_of(path, *sets, **more):
    return make_plan(load_grid(path, scale="smoke", sets=sets, **more))


def test_rows_share_their_tokenizer_and_nothing_they_should_not(ablations):
    plan = plan_of(ablations, seeds=2)
    kinds = [run.kind for run in plan.runs.values()]
    assert kinds.count("tokenizer") == 2  # one per seed, shared by four rows
    assert kinds.count("pretrain") == 2 * 6
    assert all(kinds.count(kind) == 2 * 7 for kind in EVALUATIONS)


def test_a_row_that_is_to_exceed_another_encoder_than_its_own_gets_a_note(tmp_path):
    note = "Row 'plus' is compared with row 'random', another encoder (type vit there, beit here; positions sincos there, none here"
    rows = [{"name": "random", "pretrain": False}, {"name": "beit", "improves": "knn"},
            {"name": "plus", "base": "beit_plus", "improves": "knn"}]  # fmt: skip
    path = tmp_path / "g.yaml"
    path.write_text(yaml.safe_dump({"name": "g", "base": "beit", "scale": "smoke", "protocols": ["knn"], "rows": rows}))
    (found,) = plan_of(path).notes
    assert found.startswith(note), found
    assert plan_of("methods").notes == []


def test_parents_come_before_their_children_and_seeds_one_after_another(ablations):
    plan = plan_of(ablations, seeds=3)
    order = {name: index for index, name in enumerate(plan.runs)}
    assert all(order[parent] < order[name] for name, run in plan.runs.items() for parent in run.parents)
    seeds = [run.spec["seed"] for run in plan.runs.values()]
    assert seeds == sorted(seeds)


def test_every_name_is_the_hash_of_its_spec(ablations):
    assert all(run_name(run.spec) == name for name, run in plan_of(ablations, seeds=1).runs.items())


def test_rows_with_equal_recipes_share_all_runs(tmp_path):
    path = tmp_path / "same.yaml"
    path.write_text(
        "base: beit\nseeds: 1\nprotocols: [knn]\nrows:\n- {name: a}\n- {name: b, masker: {type: blockwise, ratio: 0.4}}\n"
    )
    plan = plan_of(str(path))
    assert plan.rows["a"] == plan.rows["b"]
    assert len(plan.runs) == 4


def test_editing_a_protocol_touches_that_evaluation_alone(ablations):
    before, after = plan_of(ablations, seeds=1), plan_of(ablations, "protocols.knn.temperature=0.1", seeds=1)
    changed = {run.kind for name, run in after.runs.items() if name not in before.runs}
    assert changed == {"knn"}
    assert sum(name in before.runs for name in after.runs) == len(before.runs) - 7


def test_another_masker_changes_neither_the_tokenizer_nor_scratch(ablations):
    before = plan_of(ablations, seeds=1)
    after = plan_of(ablations, "masker={type: blockwise, predict: all}", seeds=1, only=("beit", "scratch"))
    kept = {run.kind for name, run in after.runs.items() if name in before.runs}
    assert kept == {"tokenizer", *EVALUATIONS, "pretrain"}  # BEiT with predict: all is the row recover-all
    assert after.rows["scratch"] == before.rows["scratch"]
    assert after.rows["beit"] == before.rows["recover-all"]


def test_the_masker_none_may_be_told_that_it_predicts_all(ablations):
    one = {"seeds": 1, "only": ("no-masking-recover-all",)}
    assert plan_of(ablations, "masker.predict=all", **one).rows == plan_of(ablations, **one).rows


def test_a_plan_for_gpus_is_the_same_on_every_machine(ablations, monkeypatch):
    """A login node without a GPU must not make the jobs compute in float32."""
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


def test_the_record_keeps_the_seeds_and_rows_of_earlier_calls(ablations, store):
    prepare(plan_of(ablations, seeds=2), store)
    prepare(plan_of(ablations, seeds=1, only=("beit",)), store)
    record = read_json(store.grid_path("ablations", "smoke"))
    assert record["seeds"] == [0, 1]
    assert all(set(row["runs"]) == {"0", "1"} for row in record["rows"])


def test_seeds_of_a_list_leave_the_record_when_the_list_changes(tmp_path, store):
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
        prepare(plan_of(str(path), **more), store)
        record = read_json(store.grid_path("mine", "smoke"))
        assert record["seeds"] == expected
        assert sorted(map(int, record["rows"][0]["runs"])) == expected


def test_a_record_in_the_format_of_another_version_is_rewritten(ablations, store):
    plan = plan_of(ablations, seeds=1, only=("beit",))
    write_record(store.grid_path("ablations", "smoke"), {"format": 1, "rows": "?"})
    prepare(plan, store)
    assert read_grid(store.grid_path("ablations", "smoke"))["seeds"] == [0]


def test_the_longer_ablation_shares_beit_with_the_ablations(ablations):
    longer = plan_of("ablations_longer", seeds=1)
    assert longer.rows["beit"] == plan_of(ablations, seeds=1).rows["beit"]
    assert describe(longer.grid.rows[1]).endswith("masked positions, 64 steps")


def test_the_record_never_mixes_two_definitions_of_a_row(ablations, store):
    """Runs of another recipe are dropped, not averaged in."""
    prepare(plan_of(ablations, seeds=1), store)
    plan = plan_of(ablations, "schedule.lr=1e-4", seeds=2, only=("beit",))
    plan.rows["beit"].pop(0)  # as if only seed 1 were requested
    prepare(plan, store)
    record = read_json(store.grid_path("ablations", "smoke"))
    rows = {row["name"]: set(row["runs"]) for row in record["rows"]}
    assert rows["beit"] == {"1"}
    assert rows["no-blockwise"] == set()
    assert rows["scratch"] == {"0"}  # not touched by the pre-training's rate
    assert "schedule.lr=1e-4" in record["note"]
    assert record["arguments"] == ["--scale", "smoke", "--set", "schedule.lr=1e-4"]


def test_a_parent_whose_weights_are_lost_is_run_again_while_a_child_needs_them(ablations, store):
    plan = plan_of(ablations, seeds=1, only=("no-tokens",))
    prepare(plan, store)
    names = plan.rows["no-tokens"][0]
    parent = store.run(names["pretrain"])
    parent.finish({"metrics": {}, "weights_sha256": "x"}, {})
    assert names["pretrain"] in wanted(plan.runs, store)
    parent.work.mkdir()
    (parent.work / "weights.pt").write_bytes(b"")
    assert names["pretrain"] not in wanted(plan.runs, store)
    for kind in EVALUATIONS:
        store.run(names[kind]).finish({}, {})
    (parent.work / "weights.pt").unlink()
    assert not wanted(plan.runs, store)  # no child needs them


def test_all_images_of_a_split_and_the_crop_are_priced(ablations, store):
    plan = plan_of(ablations, seeds=1)
    spec = plan.runs[plan.rows["beit"][0]["finetune"]].spec
    everything = {**spec, "counts": dict.fromkeys(spec["counts"])}
    assert complete(everything, plan)["counts"] == {"labeled": 2000, "val": 1000, "test": 4000}
    assert KINDS["finetune"].flops(complete(everything, plan)) > 10 * KINDS["finetune"].flops(complete(spec, plan))
    masks = plan.runs[plan.rows["beit"][0]["segmentation"]].spec
    cropped = copy.deepcopy(masks)
    cropped["protocol"]["settings"]["crop"] = 64
    assert KINDS["segmentation"].flops(cropped) > 4 * KINDS["segmentation"].flops(masks)


def test_a_stated_pooling_needs_no_linear_probe(ablations, tmp_path):
    plan = plan_of(ablations, seeds=1)
    stated = plan_of(ablations, "protocols.finetune.pooling=mean", seeds=1)
    by_role = lambda plan: plan.runs[plan.rows["beit"][0]["finetune"]].spec["parents"]
    assert set(by_role(plan)) == {"encoder", "linear_probe"}
    assert set(by_role(stated)) == {"encoder"}
    assert not next(column for column in stated.columns if column.name == "finetune").rests_on


def test_an_estimate_counts_what_is_done_and_uses_recorded_costs(ablations, store):
    plan = plan_of(ablations, seeds=1)
    first = {row.kind: row for row in estimate(plan, store)}
    assert first["tokenizer"].shared == 1
    assert not first["knn"].measured
    priced = {row.kind: row for row in estimate(plan, store, throughput=1e12)}["pretrain"]
    assert priced.seconds == pytest.approx(first["pretrain"].flops / 1e12)
    prepare(plan, store)
    store.run(plan.rows["beit"][0]["knn"]).finish({}, {"seconds": 7.0})
    knn = {row.kind: row for row in estimate(plan, store)}["knn"]
    assert (knn.done, knn.measured, knn.seconds) == (1, True, 6 * 7.0)


def test_a_row_is_described_in_a_few_words(ablations):
    rows = {row.name: describe(row) for row in load_grid(ablations).rows}
    assert rows["beit"] == "dvae, blockwise masking, cross_entropy over masked positions, 1500 steps"
    assert "over all positions" in rows["recover-all"]
    assert rows["scratch"] == "no pre-training"


def test_fine_tuning_waits_for_the_linear_probe_whose_pooling_it_takes(tmp_path):
    path = tmp_path / "mine.yaml"
    grid = {"base": "beit", "seeds": 1, "protocols": ["finetune"], "rows": [{"name": "a"}]}
    path.write_text(yaml.safe_dump(grid))
    plan = plan_of(str(path))
    runs = plan.rows["a"][0]
    spec = plan.runs[runs["finetune"]].spec
    assert spec["parents"] == {"encoder": runs["pretrain"], "linear_probe": runs["linear_probe"]}
    assert [column.name for column in plan.columns] == ["finetune"]  # the probe is run, and has no column
    changed = plan_of(str(path), "protocols.linear_probe.epochs=6")
    assert changed.columns[0].fingerprint != plan.columns[0].fingerprint


def test_evaluations_on_frozen_features_share_their_extraction(ablations):
    plan = plan_of(ablations, seeds=1, only=("beit",))
    runs = plan.rows["beit"][0]
    for kind in ("linear_probe", "knn"):
        assert plan.runs[runs[kind]].spec["parents"] == {"features": runs["features"]}
    assert plan.runs[runs["features"]].spec["parents"] == {"encoder": runs["pretrain"]}


def test_segmentation_has_image_counts_of_its_own(tmp_path):
    scale = tmp_path / "few.yaml"
    text = yaml.safe_load((ROOT / "configs" / "scales" / "smoke.yaml").read_text())
    text["evaluation"]["segmentation"] = {"labeled": 20, "val": 10, "test": 12}
    scale.write_text(yaml.safe_dump({**text, "scale": "smoke"}))
    plan = make_plan(load_grid("ablations", scale=str(scale), seeds=1, only=("scratch",)))
    runs = plan.rows["scratch"][0]
    assert plan.runs[runs["segmentation"]].spec["counts"] == {"labeled": 20, "val": 10, "test": 12}
    assert plan.runs[runs["knn"]].spec["counts"] == {"labeled": 96, "val": 64, "test": 96}
    text["evaluation"]["segmentation"]["test"] = 10**6
    scale.write_text(yaml.safe_dump({**text, "scale": "smoke"}))
    with pytest.raises(UserError, match=r"evaluation\.segmentation: shapes/test: requested 1000000 images"):
        make_plan(load_grid("ablations", scale=str(scale), seeds=1))


def test_nested_seeds_share_tokenizers_and_pretrainings(tmp_path):
    rows = [{"name": "beit"}, {"name": "scratch", "pretrain": False}, {"name": "pixels", "tokenizer": "pixels", "loss": "mse"},
            {"name": "continued", "start": {"row": "beit"}}]  # fmt: skip
    plan = make_plan(load_grid(grids.written(tmp_path, rows=rows, seeds=8, nested={"pretraining": 2, "evaluation": 2})))
    runs = {name: [of_seed for _, of_seed in sorted(seeds.items())] for name, seeds in plan.rows.items()}
    seeds = {kind: [plan.runs[own[kind]].spec["seed"] for own in runs["beit"]] for kind in runs["beit"][0]}
    assert seeds == {
        "tokenizer": [0] * 4 + [1] * 4,
        "pretrain": [0, 0, 1, 1, 2, 2, 3, 3],
        "features": list(range(8)),
        "knn": list(range(8)),
    }
    assert len({own["knn"] for own in runs["scratch"]}) == 8  # the encoder is the evaluation's own initial weights
    assert [plan.runs[own["pretrain"]].spec["seed"] for own in runs["pixels"]] == seeds["pretrain"]
    parents = [plan.runs[own["pretrain"]].spec["parents"] for own in runs["continued"]]
    assert [own["start"] for own in parents] == [own["pretrain"] for own in runs["beit"]]


def test_a_grid_that_says_that_nothing_is_nested_plans_the_same_runs(tmp_path):
    plain = make_plan(load_grid(grids.written(tmp_path, seeds=2)))
    said = make_plan(load_grid(grids.written(tmp_path, seeds=2, nested={"pretraining": 1, "evaluation": 1})))
    assert (plain.rows, record(plain)) == (said.rows, record(said))


def test_seeds_of_another_nesting_leave_the_record(tmp_path, store):
    for nested in ({}, {"nested": {"evaluation": 2}}):
        for count in (4, 2):
            prepare(make_plan(load_grid(grids.written(tmp_path, seeds=count, **nested))), store)
            kept = read_grid(store.grid_path("mine", "smoke"))
            assert (kept["seeds"], kept.get("nested", {}).get("evaluation")) == (
                [0, 1, 2, 3], nested.get("nested", {}).get("evaluation"))  # fmt: skip
    prepare(make_plan(load_grid(grids.written(tmp_path, seeds=2))), store)
    assert read_grid(store.grid_path("mine", "smoke"))["seeds"] == [0, 1]


def test_a_nesting_below_one_is_refused(tmp_path):
    assert "at least 1" in grids.error_of(tmp_path, nested={"evaluation": 0})
