"""Results as data: `mimbench.load_results`, `load_encoder` and `plan`, and the notebook that shows them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from safetensors.torch import save_file
from synthetic_grid import FINETUNE, KNN, column, evaluation, finish, planned, write_grid

import mimbench
from mimbench.config.schema import EncoderConfig, as_spec
from mimbench.errors import UserError
from mimbench.models.encoder import make_encoder
from mimbench.models.export import FORMS
from mimbench.run.weights import keep_weights
from mimbench.store.results import Store, run_name


@pytest.fixture
def notebook(monkeypatch):
    """Its code cells."""
    monkeypatch.chdir(ROOT)
    cells = json.loads((ROOT / "docs" / "results.ipynb").read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def test_every_cell_of_the_notebook_can_be_executed_and_gives_the_table_of_the_readme(notebook):
    names = {"__name__": "notebook"}
    for cell in notebook:
        exec(compile(cell, "results.ipynb", "exec"), names)
    shown = {
        "finetune": 67.29,
        "segmentation": 38.19,
        "segmentation_linear": 26.39,
        "linear_probe": 56.98,
        "knn": 44.81,
    }
    assert names["means"].loc["BEiT"].to_dict() == pytest.approx(shown, abs=0.01)
    assert names["encoded"].patches.shape == (2, 64, 64)
    assert torch.equal(names["encoded"].patches, names["fresh"].eval()(torch.zeros(2, 3, 32, 32)).patches)


def test_a_line_per_metric_has_what_was_chosen_what_it_cost_and_the_run_behind(tmp_path):
    store = Store(tmp_path)
    behind = finish(planned(store, "pretrain", 0), {"metrics": {"loss": 1.0}}, seconds=70.0)
    found = evaluation(KNN, 40.0, values={"chosen": {"neighbors": 20}})
    knn = finish(planned(store, "knn", 0), {**found, "metrics": {"accuracy": 40.0, "top5": 80.0}}, seconds=2.0)
    waiting = planned(store, "finetune", 0)
    runs = {"pretrain": behind.name, "knn": knn.name, "finetune": waiting.name}
    write_grid(store, [{"name": "a", "runs": {"3": runs}}], [column(FINETUNE, "Fine-tune"), column(KNN, "k-NN")], [3])
    lines = mimbench.load_results(tmp_path).set_index(["protocol", "metric"])
    assert lines.loc[("knn", "accuracy"), ["seed", "value", "unit", "chosen_neighbors", "seconds", "pretrain_seconds"]].tolist() == [
        3, 40.0, "%", 20, 2.0, 70.0
    ]  # fmt: skip
    assert lines.in_table.to_dict() == {
        ("finetune", "accuracy"): True,
        ("knn", "accuracy"): True,
        ("knn", "top5"): False,
    }
    assert lines.state.tolist() == ["planned", "done", "done"]
    assert lines.value.isna().tolist() == [True, False, False]
    assert set(lines.pretrain_run) == {behind.name}


def test_a_folder_without_results_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(UserError, match="no results: expected a results folder"):
        mimbench.load_results(tmp_path)


def test_the_published_copies_of_this_version_are_read_together():
    assert len(mimbench.load_results(ROOT / "results" / "published").source.unique()) >= 2


def test_a_plan_in_python_is_that_of_the_command(tmp_path):
    made = mimbench.plan("ablations", scale="smoke", seeds=1, protocols=["knn"], results=tmp_path)
    assert made.drop_duplicates("run").kind.value_counts().to_dict() == {
        "tokenizer": 1, "pretrain": 6, "features": 7, "knn": 7
    }  # fmt: skip


def test_the_encoder_of_a_run_is_loaded_by_folder_and_by_a_prefix_of_its_name(tmp_path):
    store, config = Store(tmp_path), EncoderConfig(dim=32, depth=2, heads=2, patch=8)
    trained = make_encoder(config, 32, 5)
    spec = {"kind": "pretrain", "recipe": {"encoder": as_spec(config), "data": {"size": 32}}}
    folder = store.run(run_name(spec))
    folder.create(spec)
    folder.work.mkdir()
    sha256 = keep_weights(folder, trained.state_dict())
    finish(folder, {"metrics": {"loss": 1.0}, "weights_sha256": sha256})
    for named in (mimbench.load_encoder(folder.path), mimbench.load_encoder("pretrain", results=tmp_path)):
        assert all(torch.equal(value, trained.state_dict()[key]) for key, value in named.state_dict().items())
        assert not named.training
    with pytest.raises(UserError, match="no run 'pretain'"):
        mimbench.load_encoder("pretain", results=tmp_path)


@pytest.mark.parametrize("form", ["safetensors", "timm", "hf"])
def test_an_exported_encoder_without_positions_is_loaded_at_the_size_it_was_trained_at(form, tmp_path):
    config = EncoderConfig(
        type="beit", dim=32, depth=2, heads=2, patch=8, positions="none", relative_positions="shared"
    )
    trained = make_encoder(config, 32, 5).eval()
    state = {name.removeprefix("body."): value.contiguous() for name, value in trained.state_dict().items()}
    made = FORMS[form](config, 32, state)
    save_file(made.tensors, tmp_path / "model.safetensors", {"format": "pt"})
    for name, content in made.files.items():
        (tmp_path / name).write_text(json.dumps(content))
    loaded, images = mimbench.load_encoder(tmp_path), torch.rand(2, 3, 32, 32)
    assert loaded.grid == trained.grid
    assert torch.allclose(loaded(images).patches, trained(images).patches, atol=1e-5)


def test_importing_mimbench_imports_nothing_heavy():
    code = "import sys, mimbench, mimbench.plan\nassert not {'torch', 'pandas', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
