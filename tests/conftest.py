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


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """For several processes: what takes longest first, and a file's tests apart unless they share a fixture of the file."""
    shared: dict[Path, int] = {}  # how early the tests that stay together begin, by file
    for item in items:
        fixtures = item._fixtureinfo.name2fixturedefs.values()  # pytest has no public name for it
        if any(found[-1].scope == "module" for found in fixtures):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
            shared[item.path] = max(shared.get(item.path, 0), length(item))
    items.sort(key=lambda item: -max(length(item), shared.get(item.path, 0)))


def length(item):
    """By its marks: 0, 1 (slow) or 2 (slow, on SLURM)."""
    return len({mark.name for mark in item.iter_markers()} & {"slurm", "slow"})


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
