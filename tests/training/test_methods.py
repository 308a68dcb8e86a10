"""Every door of the step, through one recipe that needs it: resumed, in micro-batches and on two ranks it computes the same."""

from __future__ import annotations

import pytest
import torch
from conftest import ROOT, SMALL
from test_training import StopAt, run_as_two

from mimbench.config.grid import load_grid
from mimbench.errors import Interrupted, UserError
from mimbench.plan.graph import make_plan
from mimbench.run.execute import execute
from mimbench.runtime import Runtime
from mimbench.store.results import Store
from mimbench.store.weights import load_weights

GRID = str(ROOT / "tests" / "methods.yaml")
ROWS = ("maskfeat", "supervised", "data2vec", "beit-aggregated", "ijepa", "dino", "simclr", "capi", "igpt", "ibot",
        "mocov3", "byol", "vicreg", "cae", "dinov2", "crossmae", "frozen-teacher", "beit2", "peco", "igpt-palette", "milan",
        "eva", "simmim-swin", "dbot-1", "dbot-2", "continued")  # fmt: skip
WHOLE_BATCH = ("simclr", "capi", "mocov3", "byol", "vicreg", "dinov2")


@pytest.fixture(scope="module")
def plan():
    return make_plan(load_grid(GRID, sets=SMALL))


def prepared(plan, tmp_path, cache, label, row):
    """The run of the row's pre-training, its parents done."""
    store = Store(tmp_path / label)
    store.cache = cache
    name = plan.rows[row][0]["pretrain"]

    def make(run):
        for parent in plan.runs[run].parents:
            make(parent)
            execute(store, parent, Runtime())
        store.run(run).create(plan.runs[run].spec)

    make(name)
    return store, store.run(name)


def weights(folder):
    return load_weights(folder.work / "weights.pt")


@pytest.mark.parametrize("row", ROWS)
def test_stopping_and_resuming_changes_no_bit(plan, tmp_path, cache, row):
    store, straight = prepared(plan, tmp_path, cache, "straight", row)
    execute(store, straight.name, Runtime())
    store, stopped = prepared(plan, tmp_path, cache, "stopped", row)
    stop = StopAt()
    stop.at = 3
    with pytest.raises(Interrupted):
        execute(store, stopped.name, Runtime(stop=stop, progress=stop))
    execute(store, stopped.name, Runtime())
    one, two = weights(straight), weights(stopped)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert (straight.path / "curve.csv").read_bytes() == (stopped.path / "curve.csv").read_bytes()


@pytest.mark.parametrize("row", ROWS)
def test_micro_batches_change_only_the_order_of_sums_or_are_refused(plan, tmp_path, cache, row):
    store, whole = prepared(plan, tmp_path, cache, "whole", row)
    execute(store, whole.name, Runtime())
    store, parts = prepared(plan, tmp_path, cache, "parts", row)
    if row in WHOLE_BATCH:
        with pytest.raises(UserError, match="micro_batch"):
            execute(store, parts.name, Runtime(micro_batch=4))
        return
    execute(store, parts.name, Runtime(micro_batch=4))
    one, two = weights(whole), weights(parts)
    assert all(torch.allclose(one[key], two[key], atol=1e-4) for key in one if one[key].ndim > 1)  # see below


@pytest.mark.parametrize("row", ROWS)
def test_two_ranks_train_like_one_up_to_the_order_of_sums(plan, tmp_path, cache, row):
    store, single = prepared(plan, tmp_path, cache, "one", row)
    execute(store, single.name, Runtime())
    store, double = prepared(plan, tmp_path, cache, "two", row)
    run_as_two(store, cache, double.name)
    one, two = weights(single), weights(double)
    # of the matrices: a bias of the keys or before a normalization has no gradient but rounding, of which AdamW makes steps
    assert all(torch.allclose(one[key], two[key], atol=1e-4) for key in one if one[key].ndim > 1)
    losses = [float((run.path / "curve.csv").read_text().split("\n")[1].split(",")[1]) for run in (single, double)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
