"""Every kind of run at scale `smoke`, against recorded figures: no number may change unless a version is raised.

After raising a version, record them again:  python tests/training/test_golden_runs.py
"""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mimbench import protocols
from mimbench.config.grid import load_grid
from mimbench.kinds import KINDS
from mimbench.plan.graph import make_plan
from mimbench.run.execute import execute
from mimbench.runtime import Runtime
from mimbench.store.results import WEIGHTS, Store
from mimbench.store.weights import load_weights

ROOT = Path(__file__).parents[2]
FILE = ROOT / "tests" / "golden" / "runs.json"
TOLERANCE = {"rel": 0.02, "abs": 0.0}  # another processor rounds differently, which training magnifies
OF_ACCURACIES = {"rel": 0.0, "abs": 1.0}  # these jump by an image at a time


def figures(results: Path, cache: Path) -> dict[str, dict[str, float]]:
    """The continuous numbers of each kind of run; accuracies of a hundred images would jump by whole images."""
    trained = ("finetune", "segmentation", "attentive_probe", "linear_probe_beit", "linear_probe_mae")
    sets = ["schedule.precision=fp32", *(f"protocols.{p}.precision=fp32" for p in trained)]
    grid = load_grid(str(ROOT / "configs" / "ablations.yaml"), scale="smoke", seeds=1, only=("beit",), sets=tuple(sets))
    grid = replace(grid, protocols=protocols.PROTOCOLS)
    plan, store = make_plan(grid), Store(results)
    store.cache = cache
    found: dict[str, dict[str, float]] = {}
    for name, run in plan.runs.items():
        folder = store.run(name)
        folder.create(run.spec)
        assert execute(store, name, Runtime()) == "done"
        result = folder.result()
        values = (
            {f"metric {k}": v for k, v in result["metrics"].items()} if run.kind in ("tokenizer", "pretrain") else {}
        )
        for path in sorted(folder.work.rglob("curve.csv")):
            values[f"last loss of {path.parent.name}"] = float(list(csv.reader(path.open()))[-1][1])
        if run.kind == "features":
            values["mean size of a feature"] = load_weights(folder.work / WEIGHTS)["test"].abs().mean().item()
        elif "val" in result["values"]:
            values["mean held-out accuracy"] = float(np.mean(result["values"]["val"]))
        found[run.kind] = {**values, "version": versions()[run.kind]}
    return found


def versions() -> dict[str, int]:
    return {name: kind.version or protocols.read(name)["version"] for name, kind in KINDS.items()}


@pytest.mark.slow
def test_the_numbers_of_every_kind_of_run_are_those_recorded_for_its_version(tmp_path, cache):
    recorded, found = json.loads(FILE.read_text()), figures(tmp_path / "results", cache)
    assert recorded.keys() == found.keys()
    for kind, values in recorded.items():
        for key, value in values.items():
            tolerance = OF_ACCURACIES if "accuracy" in key else TOLERANCE
            assert found[kind][key] == pytest.approx(value, **tolerance), (
                f"{kind}: {key} changed: raise the version, or undo what changed it"
            )


if __name__ == "__main__":
    import tempfile

    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        FILE.write_text(json.dumps(figures(Path(folder) / "results", Path(folder) / "cache"), indent=1) + "\n")
    sys.stdout.write(FILE.read_text())
