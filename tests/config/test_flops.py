"""FLOPs of training: counted on the real objective, kept, summed over what a row builds on, shown."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import ROOT, SMALL
from torch.utils.flop_counter import FlopCounterMode

from mimbench.config.grid import load_grid
from mimbench.plan.compute import training_of
from mimbench.plan.graph import make_plan
from mimbench.plan.record import prepare
from mimbench.pretrain import flops as counting
from mimbench.pretrain.flops import flops_per_image
from mimbench.report.analysis import analyze
from mimbench.report.markdown import markdown
from mimbench.report.table import tabulate
from mimbench.run.flops import add_flops
from mimbench.store.results import Store

METHODS = str(ROOT / "tests" / "methods.yaml")


def grid(folder, rows, **more):
    path = folder / "grid.yaml"
    path.write_text(json.dumps({"name": "grid", "base": "beit", "scale": "tiny", "protocols": ["knn"], "seeds": 1,
                                "rows": rows, **more}))  # fmt: skip
    return make_plan(load_grid(str(path)))


def pretraining(plan, row):
    return plan.runs[plan.rows[row][0]["pretrain"]]


def test_a_plain_vit_costs_what_its_matrices_say(tmp_path):
    plan = grid(tmp_path, [{"name": "labels", "base": "supervised"}])
    tokens, dim, depth, patch, classes = 65, 64, 4, 3 * 4 * 4, 12
    embedding, head = 2 * (tokens - 1) * patch * dim, 2 * dim * classes
    blocks = depth * (2 * tokens * 12 * dim**2 + 2 * 2 * tokens**2 * dim)
    # the backward pass: gradients of weights and inputs; of the images none
    assert flops_per_image(pretraining(plan, "labels"), plan) == 3 * (blocks + head) + 2 * embedding


@pytest.mark.parametrize("row", ["data2vec", "beit-aggregated", "ijepa", "dino", "capi", "frozen-teacher"])
def test_the_count_on_no_device_is_that_of_the_computation(row, monkeypatch):
    """And not of fewer images: teacher, views and masks are all there."""
    monkeypatch.setattr(counting, "IMAGES", 4)
    plan = make_plan(load_grid(METHODS, sets=SMALL))
    on_meta, count = flops_per_image(pretraining(plan, row), plan), counting._count
    monkeypatch.setattr(
        counting, "_count", lambda make, sides, images, steps, _: count(make, sides, 4, steps, torch.device("cpu"))
    )
    assert on_meta == flops_per_image(pretraining(plan, row), plan)


def test_where_the_sizes_of_blocks_change_from_step_to_step_the_count_is_the_mean_of_many(monkeypatch):
    plan = make_plan(load_grid(METHODS, sets=SMALL))
    counts = {}
    for steps in (1, 2, 32):
        monkeypatch.setattr(counting, "STEPS", steps)
        counts[steps] = {row: flops_per_image(pretraining(plan, row), plan) for row in ("ijepa", "beit-aggregated")}
    assert len({count["ijepa"] for count in counts.values()}) == 3
    assert len({count["beit-aggregated"] for count in counts.values()}) == 1


def test_a_part_that_looks_at_values_is_counted_on_the_cpu(tmp_path, monkeypatch):
    plan = grid(tmp_path, [{"name": "beit"}])
    before = flops_per_image(pretraining(plan, "beit"), plan)
    from mimbench.registries.losses.cross_entropy import CrossEntropy

    honest = CrossEntropy.__call__

    def looking(self, prediction, target):
        assert target.max().item() >= 0
        return honest(self, prediction, target)

    monkeypatch.setattr(CrossEntropy, "__call__", looking)
    assert flops_per_image(pretraining(plan, "beit"), plan) == pytest.approx(before, rel=0.05)  # of four images' masks


def test_a_row_pays_in_full_for_all_that_is_trained_for_it(tmp_path, store):
    rows = [{"name": "random", "pretrain": False}, {"name": "beit"}, {"name": "mae", "base": "mae"},
            {"name": "taught", "base": "data2vec", "tokenizer": {"layers": 0, "normalize_mean": False},
             "encoder": {"type": "vit", "relative_positions": "none", "positions": "sincos", "layer_scale": None},
             "teacher": {"row": "beit"}}]  # fmt: skip
    plan = grid(tmp_path, rows)
    add_flops(plan, store)
    names = plan.rows["beit"][0]
    beit, taught = training_of(plan, "beit"), training_of(plan, "taught")
    assert beit.own == plan.flops[names["pretrain"]]
    assert beit.ancestors == plan.flops[names["tokenizer"]] > 0
    assert taught.ancestors == beit.total
    assert taught.total > beit.total > training_of(plan, "mae").total > training_of(plan, "random").total == 0
    assert not any(training_of(plan, row["name"]).external for row in rows)


def test_a_recipe_is_counted_once(tmp_path, store, monkeypatch):
    store.check_writable()
    add_flops(first := grid(tmp_path, [{"name": "mae", "base": "mae"}]), store)
    monkeypatch.setattr(counting, "_count", None)  # would raise
    longer = grid(tmp_path, [{"name": "mae", "base": "mae", "schedule": {"steps_multiplier": 2, "lr": 1e-4}}], seeds=2)
    add_flops(longer, store)
    assert set(longer.flops.values()) == {2 * value for value in first.flops.values()}


def test_a_count_of_which_a_digit_was_changed_is_made_again(tmp_path, capsys):
    store = Store(tmp_path / "results")
    plan = grid(tmp_path, [{"name": "labels", "base": "supervised"}])
    prepare(plan, store)
    add_flops(plan, store)
    (kept,), right = (store.cache / "flops").iterdir(), dict(plan.flops)
    kept.write_text(kept.read_text().replace("0", "1"))
    add_flops(plan, store)
    assert plan.flops == right
    assert f"{kept}: damaged; made again" in capsys.readouterr().err


def test_the_table_shows_the_flops_of_each_row_relative_to_its_reference(tmp_path, store):
    plan = grid(
        tmp_path,
        [{"name": "beit", "label": "BEiT"}, {"name": "mae", "base": "mae"}, {"name": "random", "pretrain": False}],
    )
    add_flops(plan, store)
    prepare(plan, store)
    table = tabulate(analyze(store, "grid", "tiny"))
    beit, mae = (training_of(plan, row).total for row in ("beit", "mae"))
    assert table.flops == [f"{beit / 1e12:.3g} T (1.00)", f"{mae / 1e12:.3g} T ({mae / beit:.2f})", "0"]
    text = markdown(table)
    assert "| FLOPs |" in text
    assert "relative to BEiT" in text


def test_a_row_that_is_not_chosen_again_keeps_its_flops(tmp_path, store):
    rows = [{"name": "beit"}, {"name": "mae", "base": "mae"}]
    for only in ((), ("mae",)):
        grid(tmp_path, rows)
        plan = make_plan(load_grid(str(tmp_path / "grid.yaml"), only=only))
        add_flops(plan, store)
        prepare(plan, store)
    assert None not in [row.flops for row in analyze(store, "grid", "tiny").grid.rows]


def test_torchs_counter_knows_no_fused_attention_of_the_cpu():
    """Why the count is made with plain attention."""
    query = torch.zeros(1, 1, 8, 8)
    with FlopCounterMode(display=False) as counter:
        torch.nn.functional.scaled_dot_product_attention(query, query, query)
    assert counter.get_total_flops() == 0
