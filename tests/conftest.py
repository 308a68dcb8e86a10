"""Fixtures shared by the tests. Nothing here needs a GPU, a cluster or a download."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from commands import ROOT
from hypothesis import HealthCheck, settings

from mimbench import compat as compat  # before timm and transformers

pytest_plugins = ["slurm_lab"]
# a test is not wrong for being slow on a machine that does other things meanwhile
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")
SMALL = (
    "schedule.steps=6", "schedule.warmup=1", "schedule.batch=16", "schedule.precision=fp32", "data.images=64",
    "tokenizer_training.steps=4", "tokenizer_training.warmup=1", "tokenizer_training.batch=16",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    """The files that take longest first, so that several processes end at about the same time."""
    weight: dict[Path, int] = {}
    for item in items:
        marks = {mark.name for mark in item.iter_markers()}
        weight[item.path] = max(weight.get(item.path, 0), len(marks & {"slurm", "slow"}))
    items.sort(key=lambda item: -weight[item.path])


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """The built-in data, rendered once for all tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def store(tmp_path, cache):
    from mimbench.store.results import Store

    made = Store(tmp_path / "results")
    made.cache = cache
    return made


@pytest.fixture(scope="session")
def ablations():
    return str(ROOT / "configs" / "ablations.yaml")
