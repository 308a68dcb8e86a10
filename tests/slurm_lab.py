"""A real SLURM of three nodes on this machine (slurm/cluster/cluster.sh), and the helpers of the tests on it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from pathlib import Path

import pytest
from commands import ROOT, mimbench, new_results
from waiting import VARIABLE

from mimbench.cli.jobs import states_of
from mimbench.launch.state import runs_of
from mimbench.store.records import read_grid
from mimbench.store.results import Store

GRID = str(ROOT / "tests" / "short_grid.yaml")
SCRIPT = ROOT / "slurm" / "cluster" / "cluster.sh"
# A pre-training whose steps mostly sleep: it takes as long on any machine, and leaves the cores to the other tests
STEPS = 200
WAITING = ("--set", "masker.type=tests.waiting.Waiting", "--set", f"schedule.steps={STEPS}")
QUICK = {"partition": "main", "cpus": 1, "memory_gb": 1.5, "hours": 1, "grace_seconds": 15, "checkpoint_seconds": 1}


def port(second=0):
    """The first of twenty free ports, from a range of its own for each process of the tests and each of its clusters."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    begin = 17840 + 400 * worker + 200 * second
    for first in range(begin, begin + 200, 20):
        if all(map(_is_free, range(first, first + 20))):  # daemons of tests that were killed keep theirs
            return first
    raise AssertionError(f"no twenty ports in a row are free from {begin} on")


def _is_free(number):
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the daemons do: not those that just closed
        try:
            listener.bind(("127.0.0.1", number))
        except OSError:
            return False
    return True


def bring_up(folder, **settings):
    """Start a cluster and return its environment, or skip with the reason."""
    if os.geteuid() != 0:
        missing = "the tests marked `slurm` need root to start a SLURM"
    else:
        environment = {**os.environ, "CLUSTER_DIR": str(folder), **{k: str(v) for k, v in settings.items()}}
        done = subprocess.run([SCRIPT, "up"], env=environment, capture_output=True, text=True, timeout=300)
        if done.returncode == 0:
            return {**environment, "SLURM_CONF": f"{folder}/etc/slurm.conf"}
        missing = f"no SLURM could be started here: {done.stderr[-500:]}"
    if os.environ.get("MIMBENCH_REQUIRE_SLURM"):
        pytest.fail(missing)
    pytest.skip(missing)


def take_down(environment):
    subprocess.run([SCRIPT, "down"], env=environment, capture_output=True, timeout=120, check=True)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """With accounting."""
    limits = "AccountingStorageEnforce=limits"
    folder = tmp_path_factory.mktemp("cluster")
    environment = bring_up(folder, CLUSTER_ACCOUNTING=1, CLUSTER_PORT=port(), CLUSTER_EXTRA=limits)
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = environment["SLURM_CONF"]
    yield environment
    take_down(environment)
    os.environ.pop("SLURM_CONF") if before is None else os.environ.update(SLURM_CONF=before)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """The built-in data, rendered once for all results folders."""
    return tmp_path_factory.mktemp("rendered")


@pytest.fixture(scope="session")
def with_finetuning(tmp_path_factory):
    """The grid with a longer evaluation that can be interrupted and resumed."""
    path = tmp_path_factory.mktemp("grid") / "with_finetuning.yaml"
    path.write_text(Path(GRID).read_text().replace("[knn]", "[finetune, knn]"))
    return str(path)


@pytest.fixture
def results(tmp_path, rendered):
    return new_results(tmp_path / "results", rendered)


def write_profile(folder, **settings):
    path = folder / "profile.yaml"
    path.write_text(json.dumps({**QUICK, **settings}))
    return f"slurm:{path}"


def lasting(seconds):
    """Profile keys that make all steps of `WAITING` together take so many seconds."""
    return {"setup": [f"export {VARIABLE}={seconds / STEPS}"]}


def run_grid(results, on, *words, grid=GRID):
    return mimbench("run", "grid", grid, "--results", results, "--on", on, *words)


def waiting_run(results, folder, seconds, **settings):
    """Submit a pre-training whose steps together take so many seconds."""
    profile = write_profile(folder, **lasting(seconds), **settings)
    assert run_grid(results, profile, "--only", "pixels", *WAITING).returncode == 0
    return next(f for f in Store(results).all_runs() if f.kind == "pretrain")


def states(results, name="short.smoke"):
    store = Store(results)
    names = runs_of(read_grid(store.root / "grids" / f"{name}.json"))
    return {name: run.state for name, run in states_of(store, names)[0].items()}


def settle(results, seconds=600, name="short.smoke"):
    """Wait until no run is running or queued; returns the states."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = states(results, name)
        if not {"running", "queued"} & set(found.values()):
            return found
        time.sleep(1)
    raise AssertionError(f"still moving after {seconds} s: {mimbench('status', '--results', results).stdout}")


def tables(results, name="short.smoke"):
    assert mimbench("report", "--results", results).returncode == 0
    return {p.name: p.read_bytes() for p in (results / "reports" / name).glob("table.*")}


def until(what, seconds=300):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = what()
        if value:
            return value
        time.sleep(0.2)
    raise AssertionError(f"not true after {seconds} s")


def runs_of_kind(results, kind):
    return sorted(Store(results).runs.glob(f"{kind}-*"))


def slurm(*words):
    return subprocess.run(words, capture_output=True, text=True, timeout=60)
