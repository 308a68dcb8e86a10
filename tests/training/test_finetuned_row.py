"""A row may be the encoder that another row was fine-tuned to: an edge from an evaluation back to an encoder."""

from __future__ import annotations

import pytest
import torch
import yaml
from conftest import SMALL
from safetensors.torch import load_file

from mimbench.cli.commands import main
from mimbench.config.grid import load_grid
from mimbench.errors import RunFailed, UserError
from mimbench.plan.description import describe
from mimbench.plan.graph import make_plan
from mimbench.plan.record import prepare
from mimbench.report.collect import read_grid
from mimbench.report.notices import result_notices
from mimbench.run.execute import execute
from mimbench.run.finetuned import encoder_weights
from mimbench.runtime import Runtime
from mimbench.store.weights import load_weights

FAST = (
    *SMALL,
    "protocols.finetune.epochs=1",
    "protocols.finetune.learning_rates=[1e-3]",
    "protocols.finetune.precision=fp32",
)


def grid(tmp_path, *rows, protocols=("finetune", "knn")):
    written = {"name": "mine", "base": "beit", "scale": "smoke", "seeds": 1, "protocols": list(protocols),
               "rows": [{"name": "scratch", "pretrain": False}, *rows]}  # fmt: skip
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump(written))
    sets = FAST if "finetune" in protocols else SMALL
    return load_grid(str(path), sets=sets)


TWICE = {"name": "twice", "pretrain": {"finetuned": "scratch"}}


def test_the_encoder_of_the_row_is_what_the_other_row_was_fine_tuned_to(tmp_path, store, capsys):
    plan = make_plan(grid(tmp_path, TWICE))
    prepare(plan, store)
    for name in plan.runs:
        execute(store, name, Runtime())
    first, second = plan.rows["scratch"][0], plan.rows["twice"][0]
    assert plan.runs[second["finetuned"]].parents == (first["finetune"],)
    assert plan.runs[second["features"]].parents == (second["finetuned"],)
    assert second["finetune"] != first["finetune"]
    assert not [text for text in result_notices(read_grid(store, "mine", "smoke")) if "stale" in text]
    classifier = load_weights(store.run(first["finetune"]).work / "lr-0.001" / "final.pt")
    encoder = load_weights(store.run(second["finetuned"]).work / "weights.pt")
    assert torch.equal(encoder["body.blocks.0.mlp.fc1.weight"], classifier["encoder.body.blocks.0.mlp.fc1.weight"])
    assert describe(plan.grid.rows[1]) == "fine-tuned encoder of scratch"
    _is_exported_with_its_fine_tuning(second["finetuned"], encoder, store, tmp_path / "out")
    assert main(["export", first["finetune"], "--to", "timm", "--results", str(store.root)]) == 2
    assert "For its encoder add a row `pretrain: {finetuned: ROW}`." in capsys.readouterr().err
    (store.run(first["finetune"]).work / "lr-0.001" / "final.pt").unlink()
    (store.run(second["finetuned"]).path / "result.json").unlink()
    with pytest.raises(RunFailed, match=r"missing, or not the weights of result\.json"):
        execute(store, second["finetuned"], Runtime())


def test_the_row_has_the_encoder_of_the_other_without_stating_it(tmp_path):
    other = {"name": "wide", "pretrain": False, "encoder": {"dim": 64}}
    twice = {"name": "twice", "pretrain": {"finetuned": "wide"}}
    again = {"name": "again", "pretrain": {"finetuned": "twice"}}
    written = {"name": "mine", "base": "beit", "scale": "smoke", "seeds": 1, "protocols": ["finetune", "knn"],
               "rows": [again, twice, other]}  # fmt: skip
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(written))
    plan = make_plan(load_grid(str(tmp_path / "grid.yaml")))
    encoders = [plan.runs[plan.rows[name][0]["knn"]].spec["encoder"] for name in ("again", "twice", "wide")]
    assert encoders[0] == encoders[1] == encoders[2]
    assert encoders[0]["dim"] == 64


def _is_exported_with_its_fine_tuning(run, encoder, store, out):
    assert main(["export", run, "--to", "safetensors", "--out", str(out), "--results", str(store.root)]) == 0
    tensors = load_file(out / "model.safetensors")
    assert torch.equal(tensors["blocks.0.mlp.fc1.weight"], encoder["body.blocks.0.mlp.fc1.weight"])
    card = (out / "README.md").read_text()
    assert "begun_from: random initialization" in card
    assert "name: finetune" in card
    assert "name: shapes" in card.partition("## Data")[2]
    assert "no other model's license applies" in card
    assert "Row `twice` of the grid `mine`" in card


def test_the_moving_average_is_taken_where_there_is_one_and_a_norm_of_another_width_is_left():
    own = {"body.norm.weight": torch.ones(2), "body.norm.bias": torch.zeros(2)}
    plain = {
        "encoder.body.x": torch.tensor(1.0),
        "fc_norm.weight": torch.full((2,), 3.0),
        "fc_norm.bias": torch.ones(2),
    }
    found = encoder_weights(plain, own)
    assert found["body.x"] == 1
    assert torch.equal(found["body.norm.weight"], plain["fc_norm.weight"])
    average = {f"ema.module.{key}": value + 1 for key, value in plain.items()}
    assert encoder_weights({**plain, **average}, own)["body.x"] == 2
    wide = {**plain, "fc_norm.weight": torch.ones(4), "fc_norm.bias": torch.ones(4)}
    assert encoder_weights(wide, own)["body.norm.bias"] is own["body.norm.bias"]


@pytest.mark.parametrize(
    ("rows", "protocols", "words"),
    [
        ([{"name": "b", "pretrain": {"finetuned": "scrath"}}], ("finetune",), "pretrain.finetuned: .*Did you mean 'scratch'"),
        ([{"name": "b", "pretrain": {"finetuned": "b"}}], ("finetune",), "builds on this row itself"),
        ([TWICE], ("knn",), "add finetune to the grid's protocols"),
        ([{"name": "b", "pretrain": {}}], ("finetune",), "one of weights"),
        ([{"name": "b", "pretrain": {"finetuned": "scratch", "weights": "x.pt"}}], ("finetune",), "one of weights"),
        ([{**TWICE, "encoder": {"dim": 64}}], ("finetune",), "another encoder"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_begin_so_is_refused(tmp_path, rows, protocols, words):
    with pytest.raises(UserError, match=words):
        make_plan(grid(tmp_path, *rows, protocols=protocols))


def test_an_evaluation_may_have_another_size_than_the_pre_training(tmp_path, store):
    """As 384 px after 224."""
    scale = {"base": "smoke", "scale": "smoke", "evaluation": {"data": {"size": 48}}}
    (tmp_path / "larger.yaml").write_text(yaml.safe_dump(scale))
    written = grid(tmp_path, {"name": "beit"}, protocols=("knn",))
    larger = load_grid(written.config, scale=str(tmp_path / "larger.yaml"), sets=SMALL, only=("beit",))
    plan = make_plan(larger)
    prepare(plan, store)
    for name in plan.runs:
        execute(store, name, Runtime())
    runs = plan.rows["beit"][0]
    assert plan.runs[runs["pretrain"]].spec["recipe"]["data"]["size"] == 32
    assert store.run(runs["knn"]).result()["metrics"]["accuracy"] >= 0
