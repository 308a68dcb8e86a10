"""`budget: flops`: each row's steps stand in the grid file, where `mimbench budget` writes them."""

from __future__ import annotations

import re

import pytest
import yaml
from commands import mimbench

from mimbench.cli.commands import main
from mimbench.config.grid import load_grid
from mimbench.errors import UserError
from mimbench.plan.compute import training_of
from mimbench.plan.graph import make_plan
from mimbench.plan.record import record
from mimbench.run.flops import add_flops
from mimbench.store.results import Store

HEAD = """\
# A grid of one's own, with comments.
name: equal
base: beit
scale: tiny
seeds: 1
protocols: [knn]
reference: random
budget: flops
budget_row: beit   # whose FLOPs
rows:
  - {name: random, pretrain: false}
  - {name: beit}
  - {name: mae, base: mae}
  - {name: dino, base: dino}
"""
TAUGHT = """\
  - {name: half, base: mae, schedule: {steps: 750}}
  - {name: continued, base: mae, start: {row: half}}
"""


@pytest.fixture
def budgeted(tmp_path):
    def write(text=HEAD, *words):
        path = tmp_path / "equal.yaml"
        path.write_text(text)
        assert main(["budget", str(path), "--results", str(tmp_path), *words]) == 0
        return path

    return write


def trainings(path, tmp_path):
    plan = make_plan(load_grid(str(path)))
    add_flops(plan, Store(tmp_path))
    return {row: training_of(plan, row) for row in plan.rows}


def test_a_table_says_which_rows_are_beyond_the_budget(budgeted, tmp_path):
    path = budgeted()

    def note(*sets):
        plan = make_plan(load_grid(str(path), sets=sets))
        add_flops(plan, Store(tmp_path))
        return record(plan)["note"]

    assert "Equal compute: a row trains" in note()
    assert "Equal compute: a row trains" in note("schedule.lr=1e-3")
    assert re.search(r"Not at equal compute\*\*, against beit: mae \(0\.\d+ x\)", note("schedule.steps=1000"))


def test_every_row_trains_for_the_same_flops_with_all_that_is_trained_for_it(budgeted, tmp_path):
    found = trainings(budgeted(HEAD + TAUGHT), tmp_path)
    assert found["beit"].ancestors > 0  # its tokenizer
    assert found["continued"].ancestors == found["half"].total > 0
    for row in ("mae", "dino", "continued"):
        assert found[row].total == pytest.approx(found["beit"].total, rel=1e-3), row
    assert found["half"].total < 0.5 * found["beit"].total  # it states its own steps


def test_the_warm_up_keeps_its_share_of_the_steps(budgeted):
    rows = {row.name: row.recipe.schedule for row in load_grid(str(budgeted())).rows}
    assert (rows["beit"].steps, rows["beit"].warmup) == (1500, 150)
    assert rows["mae"].steps > 5000
    assert rows["mae"].warmup == round(rows["mae"].steps / 10)
    assert rows["dino"].warmup == round(rows["dino"].steps / 10)


def test_the_rest_of_the_file_stays_as_it_was_and_other_scales_keep_their_steps(budgeted, tmp_path):
    path = budgeted()
    first = path.read_text()
    assert first.startswith(HEAD.rstrip())
    for scale in ("smoke", "tiny"):
        assert main(["budget", str(path), "--scale", scale, "--results", str(tmp_path)]) == 0
    both = yaml.safe_load(path.read_text())
    assert both == {**yaml.safe_load(first), "steps": {**both["steps"], "tiny": yaml.safe_load(first)["steps"]["tiny"]}}
    assert list(both["steps"]) == ["tiny", "smoke"]
    assert path.read_text().count("mimbench budget") == 2
    assert load_grid(str(path), scale="trial").rows[2].recipe.schedule.steps > 5000  # tiny on other images


def test_set_has_the_last_word(budgeted):
    schedule = load_grid(str(budgeted()), sets=("schedule.steps=6", "schedule.warmup=1")).rows[2].recipe.schedule
    assert (schedule.steps, schedule.warmup) == (6, 1)


def test_names_of_runs_follow_from_the_file_alone(budgeted, tmp_path, monkeypatch):
    path = budgeted()
    before = list(make_plan(load_grid(str(path))).runs)
    monkeypatch.setattr("mimbench.pretrain.flops._count", lambda *_: 1.0)  # another way of counting
    assert list(make_plan(load_grid(str(path))).runs) == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD, "steps.tiny: none for row 'beit' and others, and budget is flops. Run `mimbench budget "),
        (HEAD + "steps: {tiny: {beitt: 5}}\n", "unknown row whose steps the budget sets 'beitt'. Did you mean 'beit'"),
        (HEAD + "steps: {tiny: {random: 5}}\n", "unknown row whose steps the budget sets 'random'"),
        (HEAD + "steps: {tiny: {beit: 0}}\n", "steps.tiny.beit: must be at least 1"),
        (HEAD.replace("budget_row: beit", "budget_row: biet"), "budget_row: unknown row 'biet'. Did you mean 'beit'"),
        (HEAD.replace("budget: flops\n", ""), "budget_row: does nothing without budget: flops"),
        (HEAD.replace("budget: flops\n", "").replace("budget_row: beit", "steps: {tiny: {mae: 9}}"),
         "steps: does nothing without budget: flops"),
        (HEAD.replace("budget: flops", "budget: flop"), "budget: 'flop' is not allowed. Did you mean 'flops'"),
    ],
)  # fmt: skip
def test_a_grid_that_contradicts_its_budget_is_refused_when_it_is_read(tmp_path, text, message):
    path = tmp_path / "equal.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        load_grid(str(path))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD.replace("budget_row: beit", "budget_row: random"), "budget_row: 'random' is not trained; name a row that is"),
        (HEAD + "  - {name: continued, base: mae, start: {row: dino}}\n",
         "row 'continued': what is trained before it (row 'dino') takes 10."),
        (HEAD.replace("budget: flops\nbudget_row: beit", ""), "budget: is steps: all rows train equally long"),
        (HEAD + "steps: {tiny: {beit: 7}}\n", "steps: must stand between the lines that `mimbench budget` writes"),
    ],
)  # fmt: skip
def test_a_budget_that_cannot_be_kept_is_refused_and_nothing_is_written(tmp_path, text, message):
    path = tmp_path / "equal.yaml"
    path.write_text(text)
    done = mimbench("budget", path, "--results", tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert path.read_text() == text
