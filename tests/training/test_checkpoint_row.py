"""A foreign checkpoint is a row, named by the sha256 of its file; it may teach other rows, or be where they start."""

from __future__ import annotations

import argparse
import json
import pickle
import re
import sys
import types

import pytest
import timm
import torch
import yaml
from conftest import SMALL
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

from mimbench.cli.commands import main
from mimbench.config.grid import load_grid
from mimbench.config.schema import EncoderConfig, from_spec
from mimbench.errors import UserError
from mimbench.models.encoder import make_encoder
from mimbench.models.tensors import read_tensors
from mimbench.plan.graph import make_plan
from mimbench.plan.record import prepare, record
from mimbench.run.execute import execute
from mimbench.runtime import Runtime
from mimbench.store.files import sha256_file
from mimbench.store.results import Store
from mimbench.store.weights import load_weights

LATENT = {"tokenizer": {"type": "latent"}, "loss": "mse", "decoder": "linear", "masker": {"type": "random"}}


def timm_vit(**changes):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sizes = {"img_size": 32, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 10}
        return VisionTransformer(**{**sizes, **changes}).eval()


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "vit.pt"
    torch.save(timm_vit().state_dict(), path)
    return path


def planned(tmp_path, weights, *more, label="grid", sets=()):
    """The plan of a grid with the checkpoint as row `theirs`, and `more` rows."""
    rows = [{"name": "theirs", "pretrain": {"weights": str(weights)}}, *more]
    grid = {"name": "mine", "base": "beit", "scale": "smoke", "seeds": 1, "protocols": ["knn"], "rows": rows}
    path = tmp_path / f"{label}.yaml"
    path.write_text(yaml.safe_dump(grid))
    vit = ("encoder.type=vit", "encoder.relative_positions=none", "encoder.positions=learned",
           "encoder.layer_scale=null", "encoder.heads=2")  # fmt: skip
    return make_plan(load_grid(str(path), sets=(*SMALL, *vit, *sets)))


def prepared(plan, tmp_path, cache):
    store = Store(tmp_path / "results")
    store.cache = tmp_path / "cache"
    store.cache.mkdir(exist_ok=True)
    for folder in cache.iterdir():  # the images, rendered once
        if not (store.cache / folder.name).exists():
            (store.cache / folder.name).symlink_to(folder)
    prepare(plan, store)
    return store


def refused(tmp_path, weights, *sets) -> str:
    with pytest.raises(UserError, match=r"row 'theirs': pretrain.weights: ") as caught:
        planned(tmp_path, weights, sets=sets)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("file", ["torch", "torch, wrapped", "safetensors"])
def test_the_encoder_of_the_row_computes_what_timms_model_does(tmp_path, cache, file):
    model, path = timm_vit(), tmp_path / "vit.file"
    if file == "safetensors":
        save_file(model.state_dict(), path)
    else:
        torch.save({"model": model.state_dict()} if "wrapped" in file else model.state_dict(), path)
    plan = planned(tmp_path, path)
    store, runs = prepared(plan, tmp_path, cache), plan.rows["theirs"][0]
    assert set(runs) == {"checkpoint", "features", "knn"}
    for name in runs.values():
        execute(store, name, Runtime())
    spec = plan.runs[runs["knn"]].spec
    encoder = make_encoder(from_spec(EncoderConfig, spec["encoder"]), 32, seed=0, masked=False).eval()
    encoder.load_state_dict(load_weights(store.run(runs["checkpoint"]).work / "weights.pt"))
    images = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        ours, theirs = encoder(images), model.forward_features(images)
    torch.testing.assert_close(ours.cls, theirs[:, 0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.patches, theirs[:, 1:], atol=1e-5, rtol=1e-5)
    result = store.run(runs["checkpoint"]).result()
    assert result["values"]["left_out"] == ["head.bias", "head.weight"]
    assert store.run(runs["features"]).result()["parents"]["encoder"]["weights_sha256"] == result["weights_sha256"]


def test_the_key_is_the_content_of_the_file_not_its_name(tmp_path, weights):
    plan = planned(tmp_path, weights)
    copied = tmp_path / "another-name.pth"
    copied.write_bytes(weights.read_bytes())
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    other = tmp_path / "changed.pt"
    other.write_bytes(bytes(changed))
    runs = plan.rows["theirs"][0]
    assert plan.runs[runs["checkpoint"]].spec["weights"] == {"sha256": sha256_file(weights)}
    assert planned(tmp_path, copied).rows["theirs"][0] == runs
    assert planned(tmp_path, copied).keys == plan.keys
    different = planned(tmp_path, other)
    assert all(different.rows["theirs"][0][kind] != name for kind, name in runs.items())
    assert different.keys != plan.keys


def test_what_is_guessed_of_a_checkpoint_stands_in_the_note_of_the_table_until_it_is_stated(tmp_path, weights):
    plan = planned(tmp_path, weights)
    assert "Row 'theirs': normalization imagenet is a guess" in record(plan)["note"]
    stated = planned(tmp_path, weights, sets=("encoder.normalization=imagenet",))
    assert "guess" not in record(stated)["note"]
    assert stated.rows == plan.rows


def test_all_seeds_share_the_run_of_a_checkpoint(tmp_path, weights):
    planned(tmp_path, weights)
    plan = make_plan(load_grid(str(tmp_path / "grid.yaml"), seeds=3, sets=("encoder.heads=2",)))
    assert len({runs["checkpoint"] for runs in plan.rows["theirs"].values()}) == 1
    assert len({runs["knn"] for runs in plan.rows["theirs"].values()}) == 3


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (
            lambda: timm_vit(embed_dim=64).state_dict(),
            ["has other shapes", "cls_token (1, 1, 64), not (1, 1, 32)", "more"],
        ),
        (lambda: timm_vit(depth=1).state_dict(), ["lacks", "blocks.1.norm1.weight", "more"]),
        (lambda: timm_vit(depth=3).state_dict(), ["has tensors this encoder lacks", "blocks.2.norm1.weight"]),
        (lambda: timm_vit(init_values=0.1).state_dict(), ["has tensors this encoder lacks", "blocks.0.ls1.gamma"]),
        (lambda: torch.ones(3), ["must hold tensors by name, not one Tensor"]),
        (lambda: {"epoch": 3}, ["names of no known layout", "MoCo v3"]),
    ],
    ids=["another dim", "a block less", "a block more", "layer scale", "one tensor", "no tensors"],
)
def test_another_architecture_is_refused_with_what_differs(tmp_path, model, words):
    torch.save(model(), tmp_path / "other.pt")
    message = refused(tmp_path, tmp_path / "other.pt", "encoder.dim=32", "encoder.depth=2")
    for word in words:
        assert word in message


@pytest.mark.parametrize("file", ["torch", "safetensors", "empty", "text"])
def test_a_damaged_file_is_refused(tmp_path, file):
    path = tmp_path / "damaged"
    if file == "safetensors":
        save_file(timm_vit().state_dict(), path)
    elif file == "torch":
        torch.save(timm_vit().state_dict(), path)
    else:
        path.write_text("" if file == "empty" else "no weights at all")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    assert f"{path}: truncated or not a checkpoint" in refused(tmp_path, path)


@pytest.mark.parametrize("zipped", [True, False])
def test_the_arguments_that_training_scripts_save_beside_the_tensors_are_no_obstacle(tmp_path, monkeypatch, zipped):
    config = type("CfgNode", (dict,), {"__module__": "yacs.config"})  # as SimMIM's, which is not installed here
    monkeypatch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
    monkeypatch.setitem(sys.modules, "yacs.config", types.ModuleType("yacs.config"))
    sys.modules["yacs.config"].CfgNode = config
    node = config(MODEL=config(TYPE="vit"))
    node.__dict__["__immutable__"] = True
    arguments = argparse.Namespace(lr=1e-3, betas=(0.9, 0.95), device=torch.device("cpu"))
    state = {"model": timm_vit().state_dict(), "args": arguments, "config": node, "epoch": 3}
    torch.save(state, tmp_path / "theirs.pth", _use_new_zipfile_serialization=zipped)
    assert read_tensors(tmp_path / "theirs.pth").keys() == timm_vit().state_dict().keys()


@pytest.mark.parametrize(("name", "value"), [("blocks.1.mlp.fc1.bias", float("nan")), ("cls_token", float("-inf"))])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, name, value):
    state = timm_vit().state_dict()
    state[name].view(-1)[-1] = value
    torch.save(state, tmp_path / "broken.pt")
    assert f"not finite (NaN or infinity): {name}." in refused(tmp_path, tmp_path / "broken.pt")


def test_a_head_that_is_not_finite_does_not_matter(tmp_path):
    torch.save({**timm_vit().state_dict(), "head.bias": torch.full((10,), float("nan"))}, tmp_path / "vit.pt")
    planned(tmp_path, tmp_path / "vit.pt")


class Opens:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("file", ["torch", "pickle"])
def test_a_pickle_with_a_class_of_its_own_is_refused_and_not_executed(tmp_path, file):
    path, traced = tmp_path / "evil.pt", tmp_path / "executed"
    state = {**timm_vit().state_dict(), "more": Opens(traced)}
    if file == "torch":
        torch.save(state, path)
    else:
        path.write_bytes(pickle.dumps(state, protocol=2))
    traced.unlink(missing_ok=True)
    message = refused(tmp_path, path)
    named = r"_?io\.open" if file == "torch" else r"torch\.storage\._load_from_bytes"  # the first one in the file
    assert re.search(rf"evil\.pt: holds {named}, which is not tensors", message)
    assert "weights_only" not in message
    assert not traced.exists()


def test_a_damaged_copy_of_a_checkpoint_is_copied_again(tmp_path, cache, weights):
    plan = planned(tmp_path, weights)
    store = prepared(plan, tmp_path, cache)
    store.imported(sha256_file(weights)).write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"missing or damaged\. Run the grid again"):
        execute(store, plan.rows["theirs"][0]["checkpoint"], Runtime())
    prepare(plan, store)
    execute(store, plan.rows["theirs"][0]["checkpoint"], Runtime())


def test_a_rows_key_says_in_which_role_it_builds_on_another(tmp_path, weights):
    distilled = {"name": "r", **LATENT, "teacher": {"row": "theirs", "keep": "student"}}
    one = planned(tmp_path, weights, distilled)
    two = planned(tmp_path, weights, {**distilled, "start": {"row": "theirs"}})
    assert one.keys["r"] != two.keys["r"]


def test_a_checkpoint_may_teach_another_row_and_be_where_a_third_begins(tmp_path, cache, weights):
    taught = {"name": "taught", **LATENT, "teacher": {"row": "theirs", "keep": "student"}}
    begun = {"name": "begun", "tokenizer": "pixels", "loss": "mse", "masker": "random", "start": {"row": "theirs"}}
    plan = planned(tmp_path, weights, taught, begun)
    store, checkpoint = prepared(plan, tmp_path, cache), plan.rows["theirs"][0]["checkpoint"]
    execute(store, checkpoint, Runtime())
    for row, role in (("taught", "teacher"), ("begun", "start")):
        name = plan.rows[row][0]["pretrain"]
        assert plan.runs[name].spec["parents"] == {role: checkpoint}
        execute(store, name, Runtime())
        assert store.run(name).result()["parents"][role]["run"] == checkpoint
    begun = load_weights(store.run(plan.rows["begun"][0]["pretrain"]).work / "weights.pt")
    theirs = timm_vit().state_dict()
    moved = (begun["body.blocks.0.mlp.fc1.weight"] - theirs["blocks.0.mlp.fc1.weight"]).abs().max()
    assert 0 < moved < 0.05  # six steps away from the checkpoint


def test_training_that_begins_from_a_file_is_that_which_begins_from_the_row_of_the_file(tmp_path, weights):
    begun = {"name": "begun", "tokenizer": "pixels", "loss": "mse", "masker": "random"}
    by_row = planned(tmp_path, weights, {**begun, "start": {"row": "theirs"}})
    by_file = planned(tmp_path, weights, {**begun, "start": {"weights": str(weights)}})
    assert by_file.rows["begun"] == by_row.rows["begun"]
    assert by_file.rows["begun"][0].keys() == by_row.rows["begun"][0].keys()
    with pytest.raises(UserError, match="has another encoder"):
        planned(tmp_path, weights, {**begun, "start": {"weights": str(weights)}, "encoder": {"mlp_ratio": 2}})


def folder_with(tmp_path, model):
    """A checkpoint as it is exported, with what its tensors do not say."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    save_file(model.state_dict(), folder / "model.safetensors")
    known = {"heads": 2, "norm_eps": 1e-6, "normalization": "imagenet"}
    (folder / "config.json").write_text(json.dumps({"encoder": known}))
    return folder


def test_a_checkpoint_may_teach_without_being_a_row(tmp_path, cache):
    """It is imported once, stands in no table, and computes what a row of that checkpoint would."""
    theirs = folder_with(tmp_path, timm_vit())
    by_row = {"name": "by-row", **LATENT, "teacher": {"row": "theirs", "keep": "student"}}
    by_file = {"name": "by-file", **LATENT, "teacher": {"weights": str(theirs), "keep": "student"}}
    tokens = {"type": "vqkd", "vocabulary": 8, "code_dim": 4, "dim": 8, "depth": 1, "heads": 2, "decoder_depth": 1}
    codes = {"name": "codes", "tokenizer": tokens,
             "tokenizer_training": {"teacher": {"weights": str(theirs)}, "crop": None}}  # fmt: skip
    plan = planned(tmp_path, theirs, by_row, by_file, codes)
    assert set(plan.rows) == {"theirs", "by-row", "by-file", "codes"}
    assert plan.rows["by-file"] == plan.rows["by-row"]
    assert plan.keys["by-file"] == plan.keys["by-row"]
    checkpoint = plan.rows["theirs"][0]["checkpoint"]
    store, tokenizer = prepared(plan, tmp_path, cache), plan.rows["codes"][0]["tokenizer"]
    assert plan.runs[tokenizer].spec["parents"] == {"teacher": checkpoint}
    for name in (checkpoint, tokenizer):
        execute(store, name, Runtime())
    assert store.run(tokenizer).result()["parents"]["teacher"]["run"] == checkpoint


def test_a_teacher_of_other_patches_is_refused(tmp_path):
    theirs = folder_with(tmp_path, timm_vit(patch_size=8))
    taught = {"name": "taught", **LATENT, "teacher": {"weights": str(theirs), "keep": "student"}}
    grid = {"name": "mine", "base": "beit", "scale": "smoke", "protocols": ["knn"], "rows": [taught]}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid))
    with pytest.raises(UserError, match=r"has another grid of patches \(32 px in patches of 8 there, .* of 4 here"):
        make_plan(load_grid(str(tmp_path / "grid.yaml")))


def test_a_checkpoint_is_exported_with_its_numbers_and_the_license_of_its_card(tmp_path, cache, capsys):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    save_file(timm_vit().state_dict(), theirs / "model.safetensors")
    (theirs / "README.md").write_text("---\ntags: [vit]\nlicense: cc-by-nc-4.0\n---\n# Theirs\n")
    plan = planned(tmp_path, theirs)
    store, runs = prepared(plan, tmp_path, cache), plan.rows["theirs"][0]
    for name in runs.values():
        execute(store, name, Runtime())
    words = ["export", runs["checkpoint"], "--results", str(store.root), "--out", str(tmp_path / "out")]
    assert main([*words, "--to", "timm"]) == 0
    model, images = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval(), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model.forward_features(images), timm_vit().forward_features(images))
    card = (tmp_path / "out" / "README.md").read_text()
    accuracy = store.run(runs["knn"]).result()["metrics"]["accuracy"]
    assert f"| k-NN (%) | {accuracy:.2f} (one seed) | 1 | {accuracy:.2f} |" in card
    assert "license: cc-by-nc-4.0" in card.split("---")[1]
    assert f"- {theirs} (sha256 {sha256_file(theirs / 'model.safetensors')}): license cc-by-nc-4.0" in card
    for again in ([*words, "--to", "hf"], ["export", runs["knn"], "--to", "hf", "--results", str(store.root)]):
        assert main(again) == 2
    said = capsys.readouterr().err
    assert "exists already and is not empty; give another one with --out." in said
    assert f"{runs['knn']}: only runs of kind pretrain, checkpoint, finetuned can be exported." in said
