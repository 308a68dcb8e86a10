"""From YAML to checked dataclasses: precedence, coercion, errors that name file, key and the nearest."""

from __future__ import annotations

import copy
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from mimbench import protocols
from mimbench.cli import commands as cli
from mimbench.config.grid import SCALE_KEYS, _short_names, load_grid
from mimbench.config.merge import read_yaml
from mimbench.config.schema import RECIPE_KEYS, DataConfig, EncoderConfig, TokenizerTraining
from mimbench.errors import UserError
from mimbench.plan.graph import make_plan
from mimbench.report.published import lookup
from mimbench.store.files import canonical

GRID = {
    "name": "mine", "base": "beit", "scale": "smoke", "seeds": 1, "protocols": ["knn"],
    "rows": [{"name": "beit"}, {"name": "random", "masker": {"type": "random", "ratio": 0.5}}],
}  # fmt: skip


def written(tmp_path, **changes):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**copy.deepcopy(GRID), **changes}))
    return str(path)


def error_of(tmp_path, **changes) -> str:
    with pytest.raises(UserError) as caught:
        make_plan(load_grid(written(tmp_path, **changes)))
    return str(caught.value)


def test_base_then_scale_then_row_then_set(tmp_path):
    path = written(tmp_path, rows=[{"name": "a", "schedule": {"lr": "3e-3"}}, {"name": "b"}])
    grid = load_grid(path, sets=("schedule.batch=8",))
    assert [r.recipe.schedule.lr for r in grid.rows] == [3e-3, 2e-3]  # the row's, the scale's
    assert all(r.recipe.schedule.batch == 8 for r in grid.rows)
    assert grid.rows[0].recipe.tokenizer["vocabulary"] == 32  # the scale's word on this part
    assert grid.rows[0].recipe.masker["type"] == "blockwise"  # the base's


def test_another_type_takes_none_of_the_former_types_arguments(tmp_path):
    grid = load_grid(written(tmp_path))
    assert "min_block" in grid.rows[0].recipe.masker
    assert grid.rows[1].recipe.masker["type"] == "random"
    assert "min_block" not in grid.rows[1].recipe.masker


def test_a_part_that_is_set_has_the_scales_size_in_every_row(tmp_path):
    """Whether a row had another type there before or not."""
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
        ({"rows": [{"name": "a", "tokeniser": "dvae"}]}, ["rows.0", "tokeniser", "Did you mean 'tokenizer'"]),
        ({"rows": [{"name": "a", "encoder": {"patch": 5}}]}, ["rows.0.encoder.patch", "32"]),
        ({"rows": [{"name": "a"}, {"name": "a"}]}, ["'a' is used twice"]),
        ({"rows": []}, ["rows", "list"]),
        ({"rowz": []}, ["rowz", "Did you mean 'rows'"]),
        ({"base": "beitt"}, ["beitt", "Did you mean 'beit'"]),
        ({"scale": "tinny"}, ["tinny", "Did you mean 'tiny'"]),
        ({"protocols": ["knnn"]}, ["knnn", "Did you mean 'knn'"]),
        ({"seeds": [0, 0]}, ["seeds", "different"]),
        ({"reference": "biet"}, ["reference", "Did you mean 'beit'"]),
        ({"primary": {"row": "random", "protocol": "finetune"}}, ["primary.protocol", "finetune"]),
        ({"primary": {"row": "beit", "protocol": "knn"}}, ["primary.row", "reference itself"]),
        ({"protocols": []}, ["protocols", "at least one"]),
        ({"protocols": ["knn", "knn"]}, ["protocols", "each once"]),
        ({"name": "../../evil"}, ["name", "letters"]),
        ({"rows": [{"name": "a", "schedule": {"lr": -1}}]}, ["rows.0.schedule.lr", "greater than 0"]),
        ({"rows": [{"name": "a", "schedule": {"betas": [2, 2]}}]}, ["rows.0.schedule.betas", "less than 1"]),
        ({"rows": [{"name": "a", "data": {"images": 30000}}]}, ["row 'a'", "shapes has 20000"]),
        ({"rows": [{"name": "a", "masker": "mimbench.store.results.Store"}]}, ["is no masker", "version"]),
        ({"rows": [{"name": "a", "masker": {"type": "blockwise", "version": 7}}]}, ["rows.0.masker.version", "is version 1"]),
        ({"axes": {"product": {"schedule.lr": 3}}}, ["axes.product"]),
        ({"axes": {"zip": {"schedule.lr": [1, 2], "schedule.batch": [1]}}}, ["same length"]),
        ({"rows": [{"name": "a", "loss": "mse"}]}, ["'dvae' gives codes", "'mse' expects features"]),
        ({"rows": [{"name": "a", "encoder": {"masking": "drop"}}]}, ["drop", "'linear'", "restore"]),
        ({"rows": [{"name": "a", "encoder": {"masking": "drop"}, "decoder": "transformer"}]}, ["'blockwise'", "same number"]),
        ({"rows": [{"name": "a", "masker": "none"}]}, ["masks nothing", "over: all"]),
        ({"rows": [{"name": "a", "masker": "nowhere.at.All"}]}, ["cannot import", "nowhere.at.All"]),
        ({"rows": [{"name": "a", "masker": {"type": "random", "ratio": 1.5}}]}, ["rows.0.masker", "ratio"]),
        ({"protocols": ["segmentation"], "rows": [{"name": "a", "encoder": {"patch": 16}, "masker": "random"}]},
         ["row 'a': encoder.patch: 16 pixels", "2 x 2", "'segmentation' needs at least 4"]),
        ({"rows": [{"name": "a", "masker": {1: 2}}]}, ["rows.0.masker.1", "unknown argument", "min_block"]),
        ({"axes": {"product": {1: [2]}}}, ["axes.product", "dotted keys"]),
        ({"rows": [{"name": "a", "schedule": {"lr": 10**399}}]}, ["rows.0.schedule.lr", "at most 1.8e308"]),
        ({"rows": [{"name": "a", "schedule": {"steps": 10**23}}]}, ["rows.0.schedule.steps", "and 9223372036854775807"]),
        ({"seeds": 10**23}, ["mine.yaml: seeds", "at most 1000"]),
        ({"seeds": [10**23]}, ["mine.yaml: seeds.0", "and 9223372036854775807"]),
        ({"seeds": list(range(1001))}, ["mine.yaml: seeds", "at most 1000"]),
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


def test_axes_span_rows(tmp_path):
    axes = {
        "product": {"schedule.lr": [1e-3, 2e-3], "masker.min_block": [4, 8]},
        "zip": {"schedule.batch": [8, 16], "schedule.warmup": [1, 2]},
        "exclude": [{"schedule.lr": 2e-3, "masker.min_block": 8}],
    }
    grid = load_grid(written(tmp_path, axes=axes, rows=[{"name": "beit"}]))
    assert len(grid.rows) == 6
    assert {(r.recipe.schedule.batch, r.recipe.schedule.warmup) for r in grid.rows} == {(8, 1), (16, 2)}
    assert len({r.name for r in grid.rows}) == 6


RATES = {"product": {"schedule.lr": [1e-3, 2e-3]}}


@pytest.mark.parametrize("reference", [{}, {"reference": "beit"}])
def test_a_row_is_compared_with_the_reference_at_its_own_point_of_the_axes(tmp_path, reference):
    grid = load_grid(written(tmp_path, axes=RATES, **reference))
    assert {row.name: row.reference for row in grid.rows} == {
        "beit[lr=0.001]": "beit[lr=0.001]", "beit[lr=0.002]": "beit[lr=0.002]",
        "random[lr=0.001]": "beit[lr=0.001]", "random[lr=0.002]": "beit[lr=0.002]",
    }  # fmt: skip
    record = make_plan(grid).record()
    assert (record["base"], record["base_label"]) == ("beit[lr=0.001]", "beit")
    assert [row["reference"] for row in record["rows"]] == [row.reference for row in grid.rows]


def test_a_reference_at_one_point_is_that_of_every_row(tmp_path):
    grid = load_grid(written(tmp_path, axes=RATES, reference="beit[lr=0.002]"))
    assert {row.reference for row in grid.rows} == {"beit[lr=0.002]"}
    assert grid.reference_label == "beit (lr=0.002)"


def test_the_primary_comparison_is_never_a_references_with_itself(tmp_path):
    primary = {"row": "beit[lr=0.002]", "protocol": "knn"}
    assert "reference itself" in error_of(tmp_path, axes=RATES, primary=primary)


def test_axes_that_end_alike_are_told_apart_by_the_shortest_ends_that_do(tmp_path):
    axes = {"product": {"schedule.lr": [1e-3], "tokenizer_training.lr": [2e-3], "masker.min_block": [4]}}
    (row,) = load_grid(written(tmp_path, axes=axes, rows=[{"name": "a"}])).rows
    assert row.name == "a[min_block=4,schedule.lr=0.001,tokenizer_training.lr=0.002]"
    assert _short_names(["a.b.lr", "a.c.lr", "c.lr", "size"]) == {
        "a.b.lr": "b.lr", "a.c.lr": "a.c.lr", "c.lr": "c.lr", "size": "size"}  # fmt: skip


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("protocols.knn.neighbour=[1]", "Did you mean 'neighbours'"),
        ("protocols.knn.neighbours=[few]", "must be an integer"),
        ("protocols.knn.neighbours=[]", "at least one value"),
        ("protocols.knn.neighbours=[0, 5]", "at least 1 each"),
        ("protocols.knn.neighbours=[5, 5000]", "at most 96 each, the labelled images of scale smoke, not 5000"),
        ("protocols.knn.temperature=0", "at least 0.0125"),
        ("protocols.finetune.learning_rates=[0, 1e-3]", "greater than 0"),
        ("protocols.finetune.learning_rates=[1e-3, 0.00100000001]", "different"),
        ("protocols.finetune.min_lr_ratio=2", "between 0 and 1"),
        ("protocols.finetune.warmup=3", "a share of the steps"),
        ("protocols.finetune.weight_decay=-1", "at least 0"),
        ("protocols.finetune.betas=[0.9]", "two numbers"),
        ("protocols.finetune.betas=[0.9, 1]", "less than 1"),
        ("protocols.finetune.layer_decay=0", "greater than 0"),
        ("protocols.finetune.drop_path=3", "less than 1"),
        ("protocols.finetune.label_smoothing=5", "less than 1"),
        ("protocols.finetune.clip=0", "or null for none"),
        ("protocols.finetune.epochs=0", "at least 1"),
        ("protocols.segmentation.batch=1", "at least 2"),
        ("protocols.segmentation.channels=0", "at least 1"),
        ("protocols.segmentation.auxiliary_channels=0", "at least 1"),
        ("protocols.segmentation.first_class_weight=-1", "at least 0"),
        ("protocols.segmentation.crop=0", "or null for the size of the data"),
        ("protocols.segmentation.resize=[32]", "two sides"),
        ("protocols.segmentation.rescales=[1]", r"or \[2, 1, 0.5, 0.25\], not \[1\]"),
        ("protocols.segmentation.rescales=[0.25, 0.5, 1, 2]", r"or \[2, 1, 0.5, 0.25\]"),
        ("protocols.finetune.precision=bf61", "Did you mean 'bf16'"),
        ("protocols.finetune.batch=0", "at least 1"),
        ("protocols.segmentation.crop=banana", "must be an integer"),
        ("protocols.segmentation.crop=16", "must be 32, the size of the pre-training images"),
        ("protocols.segmentation.resize=3", "must be a list"),
        ("tokenizer_training.crop=15", "no multiple of the patch"),
        ("data.size=0", "--set data.size: must be at least 1"),
        ("data.shift=-3", "--set data.shift: must be at least 0"),
        ("data.shift=32", "less than the 32 pixels"),
        ("data.crop=[3, 5]", "--set data.crop: must be the smallest and the largest share"),
        ("data.crop=[0.5, 0.2]", "smallest and the largest"),
        ("data.jitter=2", "--set data.jitter: must be between 0 and 1"),
        ("encoder.mlp_ratio=-1", "--set encoder.mlp_ratio: must leave at least 1"),
        ("encoder.layer_scale=0", "--set encoder.layer_scale: must be greater than 0"),
        ("schedule.min_lr=1", "--set schedule.min_lr: must be at most lr"),
        ("tokenizer_training.images=0", "--set tokenizer_training.images: must be at least 1"),
        ("schedule.longer=0.5", "--set schedule.longer: must be at least 1 and at most 1000, not 0.5"),
        ("schedule.longer=1e300", "at most 1000"),
        ("tokenizer_training.longer=2", "unknown key 'longer'"),
        ("data.name=2020-13-45", "not readable as YAML"),
        ("data.name=!!bool perhaps", "not readable as YAML"),
        ("data.name=!!timestamp x", "not readable as YAML"),
        ('data.name=!!int ""', "not readable as YAML"),
        ("data.name=" + "[" * 3000, "not readable as YAML"),
        ("schedule.lr=0x1" + "0" * 5000, "not readable as YAML"),
    ],
)
def test_a_wrong_setting_is_refused(tmp_path, setting, words):
    with pytest.raises(UserError, match=words):
        make_plan(load_grid(written(tmp_path, protocols=["knn", "finetune", "segmentation"]), sets=(setting,)))


def test_a_protocol_setting_takes_its_defaults_type(tmp_path):
    sets = (
        "protocols.finetune.learning_rates=[1e-3, 2]",
        "protocols.finetune.clip=null",
        "protocols.finetune.weight_decay=0",
    )
    plan = make_plan(load_grid(written(tmp_path, protocols=["finetune"]), sets=sets))
    settings = plan.columns[0].settings
    assert (settings["learning_rates"], settings["clip"], settings["weight_decay"]) == ([0.001, 2.0], None, 0.0)


def test_what_the_protocols_themselves_say_is_allowed():
    for name in protocols.NAMES:
        for scale in ("smoke", "tiny"):
            for key, value in protocols.load(name, scale, "test").settings.items():
                protocols.check_setting(name, key, value, key)
                assert key in protocols.ALLOWED or isinstance(value, bool | str)


def test_the_rescales_for_patches_of_16_pixels_can_be_set_and_the_default_set_is_the_same_run(tmp_path):
    path = written(tmp_path, protocols=["segmentation"])
    plain = make_plan(load_grid(path))
    for rescales, same in (("[2, 1.0, 5e-1, 0.25]", True), ("[4, 2, 1, 0.5]", False)):
        plan = make_plan(load_grid(path, sets=(f"protocols.segmentation.rescales={rescales}",)))
        assert (plan.columns[0].fingerprint == plain.columns[0].fingerprint) is same


def test_the_images_of_a_scales_evaluation_are_checked_as_the_recipes(tmp_path):
    scale = read_yaml(ROOT / "configs/scales/smoke.yaml")
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump({**scale, "evaluation": {"data": {"name": "shapes", "crop": [0, 1]}}}))
    with pytest.raises(UserError, match=r"own\.yaml: evaluation\.data\.crop: must be the smallest"):
        load_grid(written(tmp_path), scale=str(own))


def test_how_many_images_an_evaluation_takes_is_said_by_split(tmp_path):
    own = tmp_path / "own.yaml"
    scale = read_yaml(ROOT / "configs/scales/smoke.yaml")
    own.write_text(yaml.safe_dump({**scale, "evaluation": {"data": {"name": "shapes", "images": 10}}}))
    with pytest.raises(UserError, match=r"evaluation\.data\.images: say how many by `labelled`, `val` and `test`"):
        load_grid(written(tmp_path), scale=str(own))


def test_the_option_for_seeds_is_bounded_as_the_file_is(tmp_path):
    with pytest.raises(UserError, match="--seeds: must be at least 1 and at most 1000"):
        load_grid(written(tmp_path), seeds=300_000_000)


def test_a_published_number_is_not_sought_in_a_column_without_a_name():
    with pytest.raises(UserError, match="unknown column 'None'"):
        lookup({None: 3}, "mine.yaml: row 'a': paper")


@pytest.mark.parametrize(("key", "words"), [("evaluation", "unknown key '1'"), ("parts", "unknown kind of part '1'")])
def test_a_number_as_a_key_of_a_scale_is_refused(tmp_path, key, words):
    own = tmp_path / "numbers.yaml"
    own.write_text(yaml.safe_dump({**read_yaml(ROOT / "configs/scales/smoke.yaml"), key: {1: {}}}))
    with pytest.raises(UserError, match=words):
        load_grid(written(tmp_path), scale=str(own))


def test_a_point_is_excluded_however_its_number_is_spelt(tmp_path):
    path = tmp_path / "axes.yaml"
    path.write_text(
        "base: beit\nscale: smoke\nprotocols: [knn]\nrows: [{name: a}]\n"
        "axes: {product: {schedule.lr: [1e-3, 2e-3]}, exclude: [{schedule.lr: 0.001}]}\n"
    )
    assert [row.recipe.schedule.lr for row in load_grid(str(path)).rows] == [2e-3]


def test_a_scale_of_your_own_takes_the_protocol_settings_it_names(tmp_path):
    own = tmp_path / "photos.yaml"
    own.write_text(
        (ROOT / "configs/scales/smoke.yaml").read_text().replace("steps: 24, batch: 32", "steps: 25, batch: 32")
    )
    grid = load_grid(written(tmp_path), scale=str(own))
    assert (grid.scale, grid.protocol_scale) == ("photos", "smoke")
    assert make_plan(grid).columns
    assert grid.rows[0].recipe.schedule.steps == 25


def test_a_mistyped_part_in_a_scale_is_refused(tmp_path):
    own = tmp_path / "typo.yaml"
    own.write_text((ROOT / "configs/scales/smoke.yaml").read_text().replace("blockwise:", "blockwis:"))
    with pytest.raises(UserError, match="Did you mean 'blockwise'"):
        load_grid(written(tmp_path), scale=str(own))


# same meaning, same key; other meaning, other key


def keys(path, sets=()):
    return [set(runs.values()) for row in make_plan(load_grid(path, sets=sets)).rows.values() for runs in row.values()]


def test_a_default_written_out_is_the_same_run(tmp_path):
    sized = ("masker.min_block=4",)  # which a scale says of a part that is written by its name
    short = written(tmp_path, rows=[{"name": "a", "masker": "blockwise"}])
    names, names_sized = keys(short), keys(short, sized)
    assert keys(short, ("encoder.drop_path=-0.0",)) == names
    long = written(tmp_path, rows=[{"name": "b", "masker": {"type": "blockwise", "aspect": "3e-1", "exact": False}}])
    assert keys(long) == names
    by_path = written(tmp_path, rows=[{"name": "c", "masker": "mimbench.registries.maskers.blockwise.Blockwise"}])
    assert keys(by_path, sized) == names_sized


def test_longer_is_so_many_times_the_scales_steps_and_the_same_run_as_these(tmp_path):
    rows = [
        {"name": "beit"},
        {"name": "longer", "schedule": {"longer": 2.6667}},
        {"name": "64", "schedule": {"steps": 64}},
    ]
    plan = make_plan(load_grid(written(tmp_path, rows=rows)))
    assert [row.recipe.schedule.steps for row in plan.grid.rows] == [24, 64, 64]
    assert {row.recipe.schedule.warmup for row in plan.grid.rows} == {4}
    assert plan.rows["longer"] == plan.rows["64"] != plan.rows["beit"]


def test_a_row_that_a_scale_leaves_out_is_run_there_when_it_is_named(tmp_path, capsys):
    rows = [{"name": "beit"}, {"name": "longer", "schedule": {"longer": 3}, "left_out_at": ["smoke"]}]
    path = written(tmp_path, rows=rows)
    plan = make_plan(load_grid(path))
    assert set(plan.rows["beit"]) == {0}
    assert not plan.rows["longer"]
    assert [row["runs"] for row in plan.record()["rows"]][1] == {}
    assert set(make_plan(load_grid(path, only=("longer",))).rows["longer"]) == {0}
    assert set(make_plan(load_grid(path, scale="tiny")).rows["longer"]) == {0}
    assert cli.main(["plan", path]) == 0
    assert "left out at this scale unless --only names it: longer" in capsys.readouterr().out
    assert cli.main(["plan", path, "--only", "longer"]) == 0
    assert "left out" not in capsys.readouterr().out


def test_a_row_that_a_scale_leaves_out_need_not_fit_it(tmp_path):
    big = {"name": "big", "masker": {"type": "blockwise", "count": 100}, "left_out_at": ["smoke"]}
    path = written(tmp_path, rows=[{"name": "beit"}, big])
    make_plan(load_grid(path))
    with pytest.raises(UserError, match="row 'big': count: 100 is more than the 64 patches"):
        make_plan(load_grid(path, only=("big",)))


def test_a_row_is_left_out_at_a_scale_of_ones_own_by_its_name(tmp_path):
    (tmp_path / "photos.yaml").write_text((ROOT / "configs" / "scales" / "smoke.yaml").read_text())
    rows = [{"name": "beit"}, {"name": "longer", "schedule": {"longer": 3}, "left_out_at": ["photos"]}]
    grid = load_grid(written(tmp_path, rows=rows), scale=str(tmp_path / "photos.yaml"))
    assert grid.chosen == ("beit",)


@pytest.mark.parametrize(
    ("scales", "words"),
    [
        (["tiniest"], "rows.0.left_out_at: unknown config in configs/scales 'tiniest'. Allowed: smoke, tiny"),
        (3, "rows.0.left_out_at: must be a list"),
        (["ablations"], "rows.0.left_out_at: 'ablations' is no scale: "),  # a grid
        (["smoke"], "scale smoke leaves every row out"),
    ],
)
def test_a_row_left_out_by_mistake_is_told(tmp_path, scales, words):
    assert words in error_of(tmp_path, rows=[{"name": "a", "left_out_at": scales}])


def test_tensorboard_is_one_line_of_a_grid_and_no_part_of_what_is_computed(tmp_path, ablations):
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


huge = st.sampled_from([10**13, 2**63, -(2**63), 10**23, 10**399])
scalars = st.none() | st.booleans() | st.integers() | huge | st.floats() | st.text(max_size=8)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(scalars, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150)
@given(key=st.sampled_from([*GRID, "axes", "primary", "reference", "title", "note"]), value=anything)
def test_no_grid_file_gives_a_traceback(tmp_path_factory, key, value):
    folder = tmp_path_factory.mktemp("grids")
    try:
        make_plan(load_grid(written(folder, **{key: value})))
    except UserError:
        return


@settings(max_examples=150)
@given(
    key=st.sampled_from([*RECIPE_KEYS, "base", "label", "paper"]),
    value=anything | st.dictionaries(st.sampled_from(["type", "ratio", "size", "steps", "patch", "lr"]) | scalars, anything, max_size=3),
)  # fmt: skip
def test_no_row_gives_a_traceback(tmp_path_factory, key, value):
    folder = tmp_path_factory.mktemp("grids")
    try:
        make_plan(load_grid(written(folder, rows=[{"name": "a", key: value}])))
    except UserError:
        return


@settings(max_examples=100)
@given(key=st.sampled_from(SCALE_KEYS), value=anything)
def test_no_scale_gives_a_traceback(tmp_path_factory, key, value):
    folder = tmp_path_factory.mktemp("grids")
    own = folder / "own.yaml"
    own.write_text(yaml.safe_dump({**read_yaml(ROOT / "configs/scales/smoke.yaml"), key: value}))
    try:
        make_plan(load_grid(written(folder), scale=str(own)))
    except UserError:
        return


SETTINGS = [
    *RECIPE_KEYS,
    *(f"data.{key.name}" for key in fields(DataConfig)),
    *(f"encoder.{key.name}" for key in fields(EncoderConfig)),
    *(f"tokenizer_training.{key.name}" for key in fields(TokenizerTraining)),
    *(f"protocols.{p}.{key}" for p in protocols.NAMES for key in protocols.load(p, "smoke", "test").settings),
]


@settings(max_examples=200)
@given(key=st.sampled_from(SETTINGS), value=anything)
def test_no_setting_gives_a_traceback(tmp_path_factory, key, value):
    path = written(tmp_path_factory.mktemp("grids"), protocols=list(protocols.NAMES))
    try:
        make_plan(load_grid(path, sets=(f"{key}={yaml.safe_dump(value, default_flow_style=True)}",)))
    except UserError:
        return


def test_specs_are_plain_json(ablations):
    plan = make_plan(load_grid(ablations, scale="smoke"))
    for run in plan.runs.values():
        canonical(run.spec)
