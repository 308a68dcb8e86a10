"""A tokenizer that learns from a teacher: stopped, in micro-batches and on two ranks its run leaves the same codes."""

from __future__ import annotations

import pytest
import torch
from conftest import ROOT, SMALL
from test_training import StopAt, run_as_two

from mimbench.config.grid import load_grid
from mimbench.errors import Interrupted
from mimbench.plan.graph import make_plan
from mimbench.run.execute import execute
from mimbench.runtime import Runtime
from mimbench.store.results import Store
from mimbench.store.weights import load_weights


@pytest.fixture(scope="module")
def plan():
    return make_plan(load_grid(str(ROOT / "tests" / "methods.yaml"), sets=SMALL))


@pytest.fixture(scope="module")
def straight(plan, tmp_path_factory, cache):
    """The tokenizer's run, done in one go."""
    store, folder = prepared(plan, tmp_path_factory.mktemp("straight"), cache)
    execute(store, folder.name, Runtime())
    return folder


def prepared(plan, root, cache):
    store = Store(root / "results")
    store.cache = cache
    name = plan.rows["beit2"][0]["tokenizer"]
    (teacher,) = plan.runs[name].parents
    for run in (teacher, name):
        store.run(run).create(plan.runs[run].spec)
    execute(store, teacher, Runtime())
    return store, store.run(name)


def weights(folder):
    return load_weights(folder.work / "weights.pt")


def test_stopping_and_resuming_changes_no_bit(plan, straight, tmp_path, cache):
    store, stopped = prepared(plan, tmp_path, cache)
    stop = StopAt()
    stop.at = 2
    with pytest.raises(Interrupted):
        execute(store, stopped.name, Runtime(stop=stop, progress=stop))
    execute(store, stopped.name, Runtime())
    one, two = weights(straight), weights(stopped)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert straight.result()["metrics"] == stopped.result()["metrics"]


def test_micro_batches_change_only_the_order_of_sums(plan, straight, tmp_path, cache):
    store, parts = prepared(plan, tmp_path, cache)
    execute(store, parts.name, Runtime(micro_batch=4))
    one, two = weights(straight), weights(parts)
    assert all(torch.allclose(one[key], two[key], atol=1e-4) for key in one if one[key].ndim > 1)


def test_two_ranks_train_like_one_up_to_the_order_of_sums(plan, straight, tmp_path, cache):
    store, double = prepared(plan, tmp_path, cache)
    run_as_two(store, cache, double.name)
    one, two = weights(straight), weights(double)
    assert all(torch.allclose(one[key], two[key], atol=1e-4) for key in one if one[key].ndim > 1)


def test_the_result_names_the_weights_of_the_teacher_and_leaves_the_decoder_behind(plan, straight):
    (teacher,) = plan.runs[straight.name].parents
    assert straight.result()["parents"]["teacher"]["run"] == teacher
    assert {key.partition(".")[0] for key in weights(straight)} == {"codebook", "embed", "encoder", "project"}
