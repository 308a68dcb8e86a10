"""Health of a pre-training: figures against other implementations, and a collapse that is a flag."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from conftest import ROOT, SMALL
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy

from mimbench.config.grid import load_grid
from mimbench.plan.graph import make_plan
from mimbench.pretrain.health import Moments, flags
from mimbench.pretrain.notes import entropy_of_each, mean_entropy, share_used, usage
from mimbench.run.execute import execute
from mimbench.runtime import Runtime

HEALTHY = {"variance": 0.5, "effective_rank": 3.0}


@given(st.integers(0, 1000), st.integers(1, 6))
def test_variance_and_effective_rank_are_numpys(seed, dim):
    vectors = np.random.default_rng(seed).normal(size=(40, dim)) @ np.diag(np.arange(1, dim + 1)) + 0.3
    moments = Moments(dim)
    for part in np.array_split(vectors, 3):
        moments.add(torch.from_numpy(part))
    singular = np.linalg.svd(vectors - vectors.mean(0), compute_uv=False) ** 2
    found = moments.spread()
    assert found["effective_rank"] == pytest.approx(math.exp(entropy(singular)), rel=1e-5)
    assert found["variance"] == pytest.approx(vectors.var(0).sum() / np.square(vectors).sum(1).mean(), rel=1e-5)


def test_equal_vectors_have_no_variance_and_one_direction():
    moments = Moments(4)
    moments.add(torch.ones(10, 4) / 3)
    assert moments.spread() == {"variance": 0.0, "effective_rank": 1.0}


@given(st.integers(0, 1000))
def test_entropies_of_distributions_are_scipys(seed):
    target = np.random.default_rng(seed).dirichlet(np.full(8, 0.3), size=(3, 5)).astype(np.float32)
    sums = usage(torch.from_numpy(target[:2]), 8) + usage(torch.from_numpy(target[2:]), 8)
    rows = target.reshape(-1, 8)
    assert mean_entropy(sums) == pytest.approx(entropy(rows.mean(0), base=8), abs=1e-5)
    assert entropy_of_each(sums) == pytest.approx(entropy(rows, axis=1, base=8).mean(), abs=1e-5)
    assert share_used(sums) == len(set(rows.argmax(1))) / 8


def test_codes_have_no_entropy_of_their_own():
    sums = usage(torch.tensor([[0, 1], [1, 3]]), 4)
    assert mean_entropy(sums) == pytest.approx(entropy([1, 2, 0, 1], base=4), abs=1e-6)
    assert (entropy_of_each(sums), share_used(sums)) == (0.0, 0.75)


@pytest.mark.parametrize(
    ("spread", "targets", "said"),
    [
        (HEALTHY, {"perplexity": 40.0, "target_entropy": 0.5}, []),
        ({"variance": 1e-6, "effective_rank": 3.0}, {"perplexity": 40.0, "target_entropy": 0.5}, ["vary by 1e-06"]),
        ({"variance": 0.5, "effective_rank": 1.2}, {"perplexity": 40.0, "target_entropy": 0.5}, ["in 1.2 directions"]),
        (HEALTHY, {"perplexity": 1.3, "target_entropy": 0.1}, ["term a: perplexity 1.3 of 64"]),
        (HEALTHY, {"perplexity": 64.0, "target_entropy": 0.999}, ["term a: each is nearly the uniform"]),
    ],
)
def test_a_collapse_is_flagged(spread, targets, said):
    found = flags({"pooled": spread, "patches": HEALTHY}, {"a": {"codes": 64, **targets}})
    assert len(found) == len(said)
    assert all(words in flag for words, flag in zip(said, found, strict=True))


@pytest.fixture(scope="module")
def plan():
    return make_plan(load_grid(str(ROOT / "tests" / "methods.yaml"), sets=SMALL))


@pytest.mark.parametrize(("row", "terms"), [("maskfeat", set()), ("dino", {"class"}), ("capi", {"image"})])
def test_a_pre_training_reports_its_health_and_its_curve_the_targets(plan, store, row, terms):
    run = plan.runs[plan.rows[row][0]["pretrain"]]
    folder = store.run(run.name)
    folder.create(run.spec)
    execute(store, run.name, Runtime())
    result = folder.result()
    health = result["values"]["health"]
    assert result["metrics"].keys() == {"loss"}
    assert health["images"] == 256
    assert 0 < health["pooled"]["variance"] <= 1
    assert 1 <= health["patches"]["effective_rank"] <= 32
    assert health.get("targets", {}).keys() == terms
    header, last = (folder.path / "curve.csv").read_text().splitlines()
    assert header == ",".join(["step,loss,lr,grad_norm", *(f"mean_target_entropy.{term}" for term in terms)])
    for term in terms:
        assert 0 < health["targets"][term]["mean_target_entropy"] <= 1
        assert 0 < float(last.split(",")[-1]) <= 1


def test_several_terms_have_a_loss_each_that_sum_to_the_loss_of_the_step(plan, store):
    run = make_plan(load_grid(str(ROOT / "tests" / "methods.yaml"), sets=(*SMALL[1:], "schedule.steps=1"))).runs
    name = next(
        name
        for name in run
        if run[name].kind == "pretrain" and "aggregated" in run[name].spec["recipe"].get("terms", {})
    )
    for needed in (*run[name].parents, name):
        store.run(needed).create(run[needed].spec)
        execute(store, needed, Runtime())
    header, line = (line.split(",") for line in (store.run(name).path / "curve.csv").read_text().splitlines())
    values = dict(zip(header, map(float, line), strict=True))
    assert values["loss.patch"] + values["loss.aggregated"] == pytest.approx(values["loss"], rel=1e-4)
