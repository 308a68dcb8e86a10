"""Axes: rows at several points, and the reference that each is compared with."""

from __future__ import annotations

import pytest
from grids import error_of, written

from mimbench.config.axes import short_names
from mimbench.config.grid import load_grid
from mimbench.plan.graph import make_plan
from mimbench.plan.record import record


def test_axes_make_rows_of_every_combination(tmp_path):
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
    made = record(make_plan(grid))
    assert made["rows"][1]["point"] == {"lr": 0.002}  # the report draws curves along it
    assert (made["base"], made["base_label"]) == ("beit[lr=0.001]", "beit")
    assert [row["reference"] for row in made["rows"]] == [row.reference for row in grid.rows]


def test_a_reference_named_at_one_point_serves_every_row(tmp_path):
    grid = load_grid(written(tmp_path, axes=RATES, reference="beit[lr=0.002]"))
    assert {row.reference for row in grid.rows} == {"beit[lr=0.002]"}
    assert grid.reference_label == "beit (lr=0.002)"


def test_the_primary_comparison_is_not_of_a_reference_with_itself(tmp_path):
    primary = {"row": "beit[lr=0.002]", "protocol": "knn"}
    assert "reference itself" in error_of(tmp_path, axes=RATES, primary=primary)


def test_axes_are_named_by_their_shortest_unambiguous_endings(tmp_path):
    axes = {"product": {"schedule.lr": [1e-3], "tokenizer_training.lr": [2e-3], "masker.min_block": [4]}}
    (row,) = load_grid(written(tmp_path, axes=axes, rows=[{"name": "a"}])).rows
    assert row.name == "a[min_block=4,schedule.lr=0.001,tokenizer_training.lr=0.002]"
    assert short_names(["a.b.lr", "a.c.lr", "c.lr", "size"]) == {
        "a.b.lr": "b.lr", "a.c.lr": "a.c.lr", "c.lr": "c.lr", "size": "size"}  # fmt: skip


def test_a_point_is_excluded_however_its_number_is_written(tmp_path):
    path = tmp_path / "axes.yaml"
    path.write_text(
        "base: beit\nscale: smoke\nprotocols: [knn]\nrows: [{name: a}]\n"
        "axes: {product: {schedule.lr: [1e-3, 2e-3]}, exclude: [{schedule.lr: 0.001}]}\n"
    )
    assert [row.recipe.schedule.lr for row in load_grid(str(path)).rows] == [2e-3]


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        ({"product": {"schedule.lr": 3}}, ["axes.product.schedule.lr", "must be a list"]),
        ({"product": {"schedule.lr": []}}, ["axes.product.schedule.lr", "at least one value"]),
        ({"product": {1: [2]}}, ["axes.product.1", "must be a string"]),
        ({"product": {"scedule.lr": [2]}}, ["axes", "scedule.lr"]),
        ({"zip": {"schedule.lr": [1, 2], "schedule.batch": [1]}}, ["axes.zip", "same length"]),
        ({"product": {"schedule.lr": [1]}, "exclude": [{"schedule.batch": 1}]}, ["axes.exclude", "unknown axis"]),
        ({"product": {"schedule.lr": [1]}, "exclude": [{"schedule.lr": 1}]}, ["axes.exclude", "leaves no point"]),
    ],
)
def test_wrong_axes_are_refused(tmp_path, axes, words):
    message = error_of(tmp_path, axes=axes)
    assert [word for word in ("mine.yaml", *words) if word not in message] == []
