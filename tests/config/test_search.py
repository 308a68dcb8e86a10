"""`search:` and `searched:` of a grid: what is tried, which value is best, and what a grid then trains at."""

from __future__ import annotations

import numpy
import pytest
import yaml
from grids import error_of, written
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import zscore

from mimbench.config.grid import load_grid
from mimbench.plan.graph import make_plan
from mimbench.plan.record import record
from mimbench.plan.search import best, extended, tries

SEARCH = {"lr": [1e-3, 2e-3], "seeds": [100], "protocols": ["knn"]}
ROWS = [{"name": "mae", "base": "mae"}, {"name": "own", "schedule": {"lr": 5e-3}}, {"name": "none", "pretrain": False}]
FOUND = {"scale": "smoke", "seeds": [100], "protocols": ["knn"], "values": [1e-3, 2e-3, 4e-3], "chosen": {"mae": 4e-3},
         "at_edge": ["mae"], "failed": [], "scores": {"mae": {"knn": [1.0, 2.0, 3.0]}}}  # fmt: skip
SCORE = st.floats(0, 100).map(lambda value: round(value, 2))


def found(tmp_path, scale="smoke", **changes):
    (tmp_path / "searched").mkdir(exist_ok=True)
    (tmp_path / "searched" / f"mine.{scale}.yaml").write_text(yaml.safe_dump({**FOUND, **changes}))


def rates(grid):
    return {row.name: row.recipe.schedule.lr for row in grid.rows}


@given(st.lists(st.tuples(SCORE, SCORE), min_size=2, max_size=6))
def test_the_best_value_is_that_of_the_mean_z_score(scores):
    columns = numpy.array(scores).T
    spread = [column for column in columns if len(set(column)) > 1]
    chosen = best({"finetune": columns[0].tolist(), "linear_probe": columns[1].tolist()})
    means = sum((zscore(column) for column in spread), numpy.zeros(len(scores)))
    assert means[chosen] == pytest.approx(means.max(), abs=1e-9)


@given(st.lists(st.tuples(SCORE, SCORE), min_size=2, max_size=6), st.sampled_from([0.125, 8.0, 1024.0]))
def test_no_protocol_counts_for_more_by_spreading_more_widely(scores, factor):
    first, second = map(list, zip(*scores, strict=True))
    assert best({"a": first, "b": second}) == best({"a": first, "b": [factor * value for value in second]})


def test_a_value_that_diverged_is_never_the_best():
    assert best({"a": [1.0, 2.0, 90.0], "b": [1.0, 2.0, None]}) == 1
    assert best({"a": [None, None], "b": [None, None]}) is None
    assert best({"a": [3.0, 3.0], "b": [4.0, 4.0]}) == 0  # of equals the lowest


def test_an_edge_is_extended_by_the_factor_there():
    assert extended((1e-3, 2e-3, 6e-3), [1, None], 0) == (1e-3, 2e-3, 6e-3)
    assert extended((1e-3, 2e-3, 6e-3), [0, 1], 0) == (5e-4, 1e-3, 2e-3, 6e-3)
    assert extended((1e-3, 2e-3, 6e-3), [2, 0], 0) == (5e-4, 1e-3, 2e-3, 6e-3, 0.018)
    assert extended((1e-3, 2e-3), [0], 6e-4) == (1e-3, 2e-3)  # no schedule ends above where it starts


@given(st.floats(1e-6, 1.0), st.floats(1.1, 10.0))
def test_an_extension_is_a_new_value_beyond_the_others(low, factor):
    lower, first, second, higher = extended((low, low * factor), [0, 1], 0)
    assert lower < first < second < higher
    assert (first / lower, higher / second) == pytest.approx((factor, factor), rel=0.02)


def test_each_row_is_tried_at_each_value_and_what_it_builds_on_stays_as_it_is(tmp_path):
    rows = [*ROWS, {"name": "continued", "base": "mae", "start": {"row": "mae"}}]
    grid = load_grid(written(tmp_path, rows=rows, search=SEARCH))
    tried = tries(grid, grid.search, (1e-3, 2e-3))
    assert tried.chosen == ("mae@0.001", "mae@0.002", "continued@0.001", "continued@0.002")
    plan = make_plan(tried)
    starts = {plan.runs[plan.rows[f"continued@{lr}"][100]["pretrain"]].spec["parents"]["start"] for lr in (1e-3, 2e-3)}
    assert starts == {make_plan(tries(grid, grid.search, (grid.rows[0].recipe.schedule.lr, 1.0))).rows[
        f"mae@{grid.rows[0].recipe.schedule.lr}"][100]["pretrain"]}  # fmt: skip
    assert record(plan)["name"] == "mine-search"


def test_rows_train_at_what_was_found_and_the_record_says_so(tmp_path):
    found(tmp_path)
    path = written(tmp_path, rows=ROWS, search=SEARCH, searched=True)
    grid = load_grid(path)
    assert (rates(grid)["mae"], rates(grid)["own"]) == (4e-3, 5e-3)
    said = record(make_plan(grid))["searched"]
    for words in (
        "0.001, 0.002, 0.004 for every row",
        "seeds (100)",
        "in knn (mae 0.004)",
        "edge of the values tried: mae",
        "own: own",
    ):
        assert words in said
    assert record(make_plan(load_grid(path, at_searched=False))).get("searched") is None


def test_a_row_at_which_every_value_diverged_keeps_its_own_and_the_record_says_so(tmp_path):
    found(tmp_path, chosen={}, at_edge=[], failed=["mae"])
    grid = load_grid(written(tmp_path, rows=ROWS, search=SEARCH, searched=True))
    assert rates(grid) == rates(load_grid(written(tmp_path, rows=ROWS)))
    assert "Diverged at every value, and keep their recipe's own: mae" in grid.searched


def test_set_has_the_last_word_and_needs_no_search(tmp_path):
    grid = load_grid(written(tmp_path, rows=ROWS, search=SEARCH, searched=True), sets=("schedule.lr=3e-3",))
    assert set(rates(grid).values()) >= {3e-3}
    assert grid.searched == ""


def test_runs_keep_their_names_where_nothing_is_read(tmp_path):
    plain = set(make_plan(load_grid(written(tmp_path, rows=ROWS))).runs)
    assert set(make_plan(load_grid(written(tmp_path, rows=ROWS, search=SEARCH))).runs) == plain


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": [1e-3, 0]}, "search.lr.1: must be between 1e-09 and 1000.0, not 0"),
        ({"lr": [1e-3, -1e-3]}, "search.lr.1: must be between"),
        ({"lr": [1e-3]}, "search.lr: must be 2 to 20 values, each at least 1.1 times the one below"),
        ({"lr": [1e-3, 1e-3]}, "search.lr: must be 2 to 20 values"),
        ({"seed": [100]}, "unknown key 'seed'. Did you mean 'seeds'"),
        ({"seeds": [5]}, "search.seeds.0: must be at least 100, not 5"),
        ({"seeds": []}, "search.seeds: must be 1 to 20, each once"),
        ({"protocols": ["kn"]}, "search.protocols: unknown protocol of the grid 'kn'. Did you mean 'knn'"),
        ({"protocols": ["finetune"]}, "search.protocols: unknown protocol of the grid 'finetune'"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused_when_the_grid_is_read(tmp_path, changes, message):
    assert message in error_of(tmp_path, search={**SEARCH, **changes})


def test_a_seed_is_not_both_searched_and_reported(tmp_path):
    message = error_of(tmp_path, search=SEARCH, seeds=[0, 100])
    assert "seeds: 100 is one of search.seeds" in message


def test_searched_without_search_is_refused(tmp_path):
    assert "searched: needs `search:" in error_of(tmp_path, searched=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (None, "mine.smoke.yaml: missing, and the grid says `searched: true`. Run `mimbench search "),
        ({"chosen": {}}, "chosen: none for row 'mae'. Run `mimbench search "),
        ({"chosen": {"mea": 1e-3}}, "unknown row whose learning rate is searched 'mea'. Did you mean 'mae'"),
        ({"seeds": [101]}, "from other learning rates, seeds or protocols than `search:` of the grid names. Run `mimbench search "),
        ({"values": [1e-3, 4e-3]}, "from other learning rates"),
        ({"chosen": {"mae": 0}}, "chosen.mae: must be greater than 0"),
        ({"choosen": {}}, "unknown key 'choosen'. Did you mean 'chosen'"),
    ],
)  # fmt: skip
def test_a_grid_without_a_search_of_its_own_is_refused_with_the_command_that_makes_it(tmp_path, changes, message):
    if changes is not None:
        found(tmp_path, **changes)
    assert message in error_of(tmp_path, rows=ROWS, search=SEARCH, searched=True)
