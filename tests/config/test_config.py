"""From YAML to checked dataclasses: precedence, coercion, errors that name file, key and the nearest."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from grids import error_of, written
from hypothesis import given, settings
from hypothesis import strategies as st

from mimbench.config.grid import load_grid
from mimbench.config.merge import read_yaml
from mimbench.config.schema import ONLY, as_spec, from_spec
from mimbench.errors import UserError
from mimbench.plan.graph import make_plan
from mimbench.report.published import lookup
from mimbench.store.files import canonical


def test_base_then_scale_then_row_then_set(tmp_path):
    path = written(tmp_path, rows=[{"name": "a", "schedule": {"lr": "3e-3"}}, {"name": "b"}])
    grid = load_grid(path, sets=("schedule.batch=8",))
    assert [r.recipe.schedule.lr for r in grid.rows] == [3e-3, 2e-3]  # the row's, the scale's
    assert all(r.recipe.schedule.batch == 8 for r in grid.rows)
    assert grid.rows[0].recipe.terms[ONLY].tokenizer["vocabulary"] == 32  # the scale's size
    assert grid.rows[0].recipe.masker["type"] == "blockwise"  # the base's


def test_another_type_takes_none_of_the_former_types_arguments(tmp_path):
    grid = load_grid(written(tmp_path))
    assert "min_block" in grid.rows[0].recipe.masker
    assert grid.rows[1].recipe.masker["type"] == "random"
    assert "min_block" not in grid.rows[1].recipe.masker


def test_a_part_chosen_by_set_has_the_scales_size_in_every_row(tmp_path):
    """Whether the row itself has that type or another."""
    rows = load_grid(written(tmp_path), sets=("masker=blockwise",)).rows
    assert [row.recipe.masker["min_block"] for row in rows] == [4, 4]
    own = [{"name": "a", "masker": {"min_block": 2}}, {"name": "b", "masker": "random"}]
    rows = load_grid(written(tmp_path, rows=own), sets=("masker.type=blockwise", "masker.exact=true")).rows
    assert [(row.recipe.masker["min_block"], row.recipe.masker["exact"]) for row in rows] == [(2, True), (4, True)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rows": [{"name": "a", "masker": {"type": "blockwis"}}]}, ["mine.yaml: rows.0.masker.type", "Did you mean 'blockwise'"]),
        ({"rows": [{"name": "a", "masker": {"type": "random", "ration": 0.4}}]}, ["rows.0.masker", "ration", "Did you mean 'ratio'"]),
        ({"rows": [{"name": "a", "schedule": {"stepz": 3}}]}, ["rows.0.schedule", "stepz", "Did you mean 'steps'"]),
        ({"rows": [{"name": "a", "schedule": {"lr": "fast"}}]}, ["rows.0.schedule.lr", "number", "fast"]),
        ({"rows": [{"name": "a", "schedule": {"batch": 0}}]}, ["rows.0.schedule.batch", "at least 1"]),
        ({"rows": [{"name": "a", "tokenizr": "dvae"}]}, ["rows.0", "tokenizr", "Did you mean 'tokenizer'"]),
        ({"rows": [{"name": "a", "encoder": {"patch": 5}}]}, ["rows.0.encoder.patch", "32"]),
        ({"rows": [{"name": "a"}, {"name": "a"}]}, ["'a' is used twice"]),
        ({"rows": []}, ["rows", "list"]),
        ({"rowz": []}, ["rowz", "Did you mean 'rows'"]),
        ({"base": "beitt"}, ["beitt", "Did you mean 'beit'"]),
        ({"scale": "tinny"}, ["tinny", "Did you mean 'tiny'"]),
        ({"protocols": ["knnn"]}, ["knnn", "Did you mean 'knn'"]),
        ({"rows": [{"name": "a", "left_out_at": ["tiny"]}]}, ["rows.0", "left_out_at", "Since 0.2 it is a grid file of its own"]),
        ({"seeds": [0, 0]}, ["seeds", "different"]),
        ({"reference": "biet"}, ["reference", "Did you mean 'beit'"]),
        ({"primary": {"row": "random", "protocol": "finetune"}}, ["primary.protocol", "finetune"]),
        ({"primary": {"row": "beit", "protocol": "knn"}}, ["primary.row", "reference itself"]),
        ({"protocols": []}, ["protocols", "at least one"]),
        ({"protocols": ["knn", "knn"]}, ["protocols", "each once"]),
        ({"name": "../../evil"}, ["name", "letters"]),
        ({"rows": [{"name": "a", "schedule": {"lr": -1}}]}, ["rows.0.schedule.lr", "greater than 0"]),
        ({"rows": [{"name": "a", "schedule": {"betas": [2, 2]}}]}, ["rows.0.schedule.betas", "less than 1"]),
        ({"rows": [{"name": "a", "data": {"images": 30000}}]}, ["row 'a'", "only 20000 available"]),
        ({"rows": [{"name": "a", "masker": "mimbench.runtime.Stop"}]}, ["not a valid masker: missing version"]),
        ({"rows": [{"name": "a", "masker": {"type": "blockwise", "version": 7}}]}, ["rows.0.masker.version", "is version 1"]),
        ({"rows": [{"name": "a", "loss": "mse"}]}, ["'dvae' gives codes", "'mse' expects features", "Allowed: cross_entropy."]),
        ({"rows": [{"name": "a", "encoder": {"masking": "drop"}}]},
         ["'linear'", "restore", "Allowed: cross_attention, predictor, regressor, transformer."]),
        ({"rows": [{"name": "a", "encoder": {"masking": "drop"}, "decoder": "transformer"}]},
         ["'blockwise'", "same number", "Allowed: attention_guided, inverse_block, multiblock, none, random."]),
        ({"rows": [{"name": "a", "masker": {"type": "random", "ratio": 0.001}}]}, ["masks nothing", "predict: all"]),
        ({"rows": [{"name": "a", "masker": "nowhere.at.All"}]}, ["cannot import", "nowhere.at.All"]),
        ({"rows": [{"name": "a", "masker": {"type": "random", "ratio": 1.5}}]}, ["rows.0.masker", "ratio"]),
        ({"protocols": ["segmentation"], "rows": [{"name": "a", "encoder": {"patch": 16}, "masker": "random"}]},
         ["row 'a': encoder.patch: 16 pixels", "2 x 2", "'segmentation' needs at least 4 x 4"]),
        ({"rows": [{"name": "a", "masker": {1: 2}}]}, ["rows.0.masker.1", "unknown argument", "min_block"]),
        ({"rows": [{"name": "a", "schedule": {"lr": 10**399}}]}, ["rows.0.schedule.lr", "must be a finite number"]),
        ({"rows": [{"name": "a", "schedule": {"steps": 10**23}}]}, ["rows.0.schedule.steps", "and 9223372036854775807"]),
        ({"seeds": 10**23}, ["mine.yaml: seeds", "1000"]),
        ({"seeds": [10**23]}, ["mine.yaml: seeds.0", "and 9223372036854775807"]),
        ({"seeds": list(range(1001))}, ["mine.yaml: seeds", "1000"]),
        ({"rows": [{"name": "a", "tokenizer": {"vocabulary": 10**13}}]}, ["row 'a'", "tokenizer 'dvae'", "this size"]),
    ],
)  # fmt: skip
def test_an_error_names_the_place_what_is_wrong_and_the_nearest(tmp_path, changes, words):
    message = error_of(tmp_path, **changes)
    for word in words:
        assert word in message


def test_an_error_in_the_base_names_the_base(tmp_path):
    parts = "tokenizer: pixels\nloss: mse\ndecoder: linear\n"
    (tmp_path / "odd.yaml").write_text(parts + "masker: {type: blockwise, min_blok: 3}\n")
    assert "odd.yaml: masker.min_blok" in error_of(tmp_path, base="odd.yaml")


def test_a_key_written_twice_is_refused(tmp_path):
    path = tmp_path / "twice.yaml"
    path.write_text("name: a\nname: b\n")
    with pytest.raises(UserError, match="written twice"):
        read_yaml(path)


def test_the_images_of_a_scales_evaluation_are_checked_as_the_recipes(tmp_path):
    scale = read_yaml(ROOT / "configs/scales/smoke.yaml")
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump({**scale, "evaluation": {"data": {"name": "shapes", "crop": [0, 1]}}}))
    with pytest.raises(UserError, match=r"own\.yaml: evaluation\.data\.crop\.0: must be greater than 0"):
        load_grid(written(tmp_path), scale=str(own))


def test_the_number_of_images_of_an_evaluation_is_set_per_split(tmp_path):
    own = tmp_path / "own.yaml"
    scale = read_yaml(ROOT / "configs/scales/smoke.yaml")
    own.write_text(yaml.safe_dump({**scale, "evaluation": {"data": {"name": "shapes", "images": 10}}}))
    with pytest.raises(UserError, match=r"evaluation\.data\.images: not allowed; use `labeled`, `val` and `test`"):
        load_grid(written(tmp_path), scale=str(own))


def test_the_seeds_option_has_the_bound_of_the_file(tmp_path):
    with pytest.raises(UserError, match="--seeds: must be between 1 and 1000"):
        load_grid(written(tmp_path), seeds=300_000_000)


def test_the_seeds_option_takes_the_first_of_the_seeds_that_a_grid_lists(tmp_path):
    path = written(tmp_path, seeds=[100, 7, 102])
    assert load_grid(path, seeds=2).seeds == (100, 7)
    with pytest.raises(UserError, match=r"--seeds: 4 is more than .*\.yaml lists \(100, 7, 102\)\. Add seeds there\."):
        load_grid(path, seeds=4)


def test_a_published_number_is_not_looked_up_in_a_column_without_a_name():
    with pytest.raises(UserError, match="unknown column 'None'"):
        lookup({None: 3}, "mine.yaml: row 'a': paper")


@pytest.mark.parametrize(
    ("key", "words"), [("evaluation", "unknown key '1'"), ("parts", r"parts\.1: must be a string")]
)
def test_a_number_as_a_key_of_a_scale_is_refused(tmp_path, key, words):
    own = tmp_path / "numbers.yaml"
    own.write_text(yaml.safe_dump({**read_yaml(ROOT / "configs/scales/smoke.yaml"), key: {1: {}}}))
    with pytest.raises(UserError, match=words):
        load_grid(written(tmp_path), scale=str(own))


def test_a_scale_file_may_be_named_from_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "own.yaml").write_text((ROOT / "configs/scales/smoke.yaml").read_text())
    monkeypatch.chdir(tmp_path / "here")
    assert load_grid(written(tmp_path), scale="own.yaml").scale == "own"


def test_a_scale_of_your_own_states_the_protocol_settings(tmp_path):
    own = tmp_path / "photos.yaml"
    own.write_text(
        (ROOT / "configs/scales/smoke.yaml").read_text().replace("steps: 24, batch: 32", "steps: 25, batch: 32")
    )
    grid = load_grid(written(tmp_path), scale=str(own))
    assert grid.scale == "photos"
    assert make_plan(grid).columns == make_plan(load_grid(written(tmp_path), scale="smoke")).columns
    assert grid.rows[0].recipe.schedule.steps == 25


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ({"finetune": {"epochs": 1}}, "own.yaml: protocols.finetune: learning_rates, batch missing"),
        ({}, "own.yaml: protocols.finetune: learning_rates, epochs, batch missing: a scale states them"),
        ({"finetun": {}}, "own.yaml: protocols: unknown protocol 'finetun'. Did you mean 'finetune'"),
        ({"linear_probe": {"epoch": 1}}, "own.yaml: protocols.linear_probe: unknown setting .* Did you mean 'epochs'"),
        ({"linear_probe": {"epochs": 0, "batch": 8}}, "own.yaml: protocols.linear_probe.epochs: must be at least 1"),
    ],
)
def test_a_scale_that_does_not_state_what_a_protocol_needs_is_refused(tmp_path, stated, words):
    scale = read_yaml(ROOT / "configs/scales/smoke.yaml")
    scale["protocols"] = {**scale["protocols"], **stated} if stated else {}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(scale))
    with pytest.raises(UserError, match=words):
        make_plan(load_grid(written(tmp_path, protocols=["finetune"]), scale=str(tmp_path / "own.yaml")))


def test_a_scale_of_the_command_line_is_looked_up_from_the_working_directory_first(tmp_path, monkeypatch):
    for folder, steps in (("here", 7), ("grids", 9)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "own.yaml").write_text(f"base: smoke\nschedule: {{steps: {steps}, warmup: 1}}")
    monkeypatch.chdir(tmp_path / "here")
    path = written(tmp_path / "grids")
    assert load_grid(path, scale="own").rows[0].recipe.schedule.steps == 7
    (tmp_path / "here" / "own.yaml").unlink()
    assert load_grid(path, scale="own").rows[0].recipe.schedule.steps == 9


def test_a_scale_with_a_base_changes_what_it_says_and_takes_the_bases_protocol_settings(tmp_path):
    (tmp_path / "own.yaml").write_text("base: smoke\nnote: mine\nschedule: {steps: 25}\nevaluation: {val: 32}")
    smoke, own = (load_grid(written(tmp_path), scale=name) for name in ("smoke", str(tmp_path / "own.yaml")))
    assert (own.scale, own.scale_settings, own.scale_note) == ("own", smoke.scale_settings, "mine")
    assert own.evaluation == dataclasses.replace(smoke.evaluation, val=32)
    for changed, base in zip(own.rows, smoke.rows, strict=True):
        schedule = dataclasses.replace(base.recipe.schedule, steps=25)
        assert changed.recipe == dataclasses.replace(base.recipe, schedule=schedule)


def test_what_a_scale_says_of_its_images_stays_with_them_and_what_it_says_of_itself_stays(tmp_path):
    own = tmp_path / "own.yaml"
    on_data, always = "designed so that pre-training helps", "may favor BEiT"
    for text, stays in (
        ("schedule: {steps: 1600}", True),
        ("data: {name: other}", False),
        ("evaluation: {data: {name: other}}", False),
    ):
        own.write_text(f"base: tiny\n{text}")
        note = load_grid(written(tmp_path), scale=str(own)).scale_note
        assert (on_data in note, always in note) == (stays, True), text
    for note, stays in (
        (load_grid(written(tmp_path), scale="tiny").scale_note, True),
        (load_grid(written(tmp_path), scale="tiny", sets=("data.name=other",)).scale_note, False),
        (load_grid(written(tmp_path), scale="tiny", data="other").scale_note, False),
    ):
        assert (on_data in note, always in note) == (stays, True)
    assert "mean nothing" in load_grid(written(tmp_path), scale="smoke", data="other").scale_note


@pytest.mark.parametrize("scale", sorted(path.stem for path in (ROOT / "configs" / "scales").glob("*.yaml")))
def test_on_other_images_no_scale_speaks_of_its_own(tmp_path, scale):
    note = load_grid(written(tmp_path), scale=scale, data="other").scale_note
    assert not re.search(r"built-in|CIFAR|ImageNet-1k|ADE20K|held out", note)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("base: smok", ["own.yaml", "smok", "Did you mean 'smoke'"]),
        ("base: [smoke]", ["own.yaml: base", "must be a string"]),
        ("base: own", ["own.yaml: base: 'own' has a base itself", "allowed: a scale without one"]),
        ("base: trial", ["own.yaml: base: 'trial' has a base itself", "trial.yaml"]),
        ("base: smoke\nschedul: {steps: 1}", ["own.yaml", "schedul", "Did you mean 'schedule'"]),
    ],
)
def test_a_scale_whose_base_does_not_fit_is_refused(tmp_path, text, words):
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        load_grid(written(tmp_path), scale=str(tmp_path / "own.yaml"))
    for word in words:
        assert word in str(caught.value)


def test_the_trial_scale_differs_from_tiny_by_the_draw_of_the_data_alone(tmp_path):
    tiny, trial = (load_grid(written(tmp_path), scale=name) for name in ("tiny", "trial"))
    other = lambda data: dataclasses.replace(data, name="shapes-trial")
    assert trial.evaluation == dataclasses.replace(tiny.evaluation, data=other(tiny.evaluation.data))
    assert trial.rows[0].recipe == dataclasses.replace(tiny.rows[0].recipe, data=other(tiny.rows[0].recipe.data))
    assert (trial.scale_settings, trial.threads) == (tiny.scale_settings, tiny.threads)


def test_a_mistyped_part_in_a_scale_is_refused(tmp_path):
    own = tmp_path / "typo.yaml"
    own.write_text((ROOT / "configs/scales/smoke.yaml").read_text().replace("blockwise:", "blockwis:"))
    with pytest.raises(UserError, match="Did you mean 'blockwise'"):
        load_grid(written(tmp_path), scale=str(own))


def test_an_argument_may_be_set_before_the_type_that_takes_it(tmp_path):
    rows = load_grid(written(tmp_path), sets=("masker.exact=true", "masker=blockwise")).rows
    assert [(row.recipe.masker["exact"], row.recipe.masker["min_block"]) for row in rows] == [(True, 4), (True, 4)]


# same meaning, same key; other meaning, other key


@dataclass(frozen=True)
class Later:
    """A config with a field added after runs were named."""

    steps: int = 10
    cooldown: int = field(default=5, metadata={"neutral": 0})


def test_a_field_added_later_is_left_out_of_the_spec_at_its_neutral_value():
    assert as_spec(Later(cooldown=0)) == {"steps": 10}
    assert from_spec(Later, {"steps": 10}) == Later(cooldown=0)
    assert from_spec(Later, as_spec(Later())) == Later()


def keys(path, sets=()):
    return [set(runs.values()) for row in make_plan(load_grid(path, sets=sets)).rows.values() for runs in row.values()]


def test_a_default_written_out_is_the_same_run(tmp_path):
    sized = ("masker.min_block=4",)  # the scale's size, for a part written by its name
    short = written(tmp_path, rows=[{"name": "a", "masker": "blockwise"}])
    names, names_sized = keys(short), keys(short, sized)
    assert keys(short, ("encoder.drop_path=-0.0",)) == names
    long = written(tmp_path, rows=[{"name": "b", "masker": {"type": "blockwise", "aspect": "3e-1", "exact": False}}])
    assert keys(long) == names
    by_path = written(tmp_path, rows=[{"name": "c", "masker": "mimbench.registries.maskers.blockwise.Blockwise"}])
    assert keys(by_path, sized) == names_sized


def test_steps_multiplier_multiplies_the_scales_steps_and_is_the_same_run_as_writing_the_product(tmp_path):
    rows = [
        {"name": "beit"},
        {"name": "longer", "schedule": {"steps_multiplier": 2.6667}},
        {"name": "64", "schedule": {"steps": 64}},
    ]
    plan = make_plan(load_grid(written(tmp_path, rows=rows)))
    assert [row.recipe.schedule.steps for row in plan.grid.rows] == [24, 64, 64]
    assert {row.recipe.schedule.warmup for row in plan.grid.rows} == {4}
    assert plan.rows["longer"] == plan.rows["64"] != plan.rows["beit"]


def test_tensorboard_in_a_grid_changes_no_run(tmp_path, ablations):
    path = tmp_path / "ablations.yaml"
    path.write_text(Path(ablations).read_text() + "tensorboard: true\n")
    with_it, without = (load_grid(p, scale="smoke", seeds=1) for p in (str(path), ablations))
    assert (with_it.tensorboard, without.tensorboard) == (True, False)
    assert make_plan(with_it).runs.keys() == make_plan(without).runs.keys()


@settings(max_examples=40)
@given(
    lr=st.floats(1e-5, 1e-1), steps=st.integers(1, 10_000), betas=st.tuples(st.floats(0, 0.99), st.floats(0, 0.99)),
    clip=st.none() | st.floats(0.1, 9), order=st.randoms(use_true_random=False),
)  # fmt: skip
def test_spelling_and_order_do_not_change_a_key_but_values_do(tmp_path_factory, lr, steps, betas, clip, order):
    folder = tmp_path_factory.mktemp("grids")
    schedule = {"lr": lr, "steps": steps, "betas": list(betas), "clip": clip, "warmup": 0}
    items = list(schedule.items())
    order.shuffle(items)
    respelled = {k: repr(v) if isinstance(v, float) else v for k, v in items}
    first = keys(written(folder, rows=[{"name": "a", "schedule": schedule}]))
    assert keys(written(folder, rows=[{"name": "z", "schedule": respelled}])) == first
    other = keys(written(folder, rows=[{"name": "a", "schedule": {**schedule, "steps": steps + 1}}]))
    assert other != first


def test_specs_are_plain_json(ablations):
    plan = make_plan(load_grid(ablations, scale="smoke"))
    for run in plan.runs.values():
        canonical(run.spec)
