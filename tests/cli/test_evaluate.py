"""`mimbench evaluate WEIGHTS`: anybody's checkpoint under the protocols, beside its architecture from random weights."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

from mimbench.cli.commands import main
from mimbench.config.grid import load_grid
from mimbench.models import released
from mimbench.plan.graph import make_plan
from mimbench.store.files import sha256_file


@pytest.fixture
def weights(tmp_path):
    model = VisionTransformer(img_size=32, patch_size=8, embed_dim=64, depth=1, num_heads=1, num_classes=0)
    torch.save(model.state_dict(), tmp_path / "theirs.pth")
    return str(tmp_path / "theirs.pth")


def test_the_grid_has_the_checkpoint_and_its_architecture_and_says_what_was_loaded(weights, tmp_path, capsys):
    results = tmp_path / "results"
    words = ["evaluate", weights, "--scale", "smoke", "--protocols", "knn", "--results", str(results), "--dry-run"]
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert "2 rows x 3 seeds" in out
    assert "18 tensors loaded" in err
    assert "patch 8, dim 64, depth 1, heads 1" in err
    (written,) = (results / "evaluate").iterdir()
    assert written.name == f"evaluate-theirs-{sha256_file(Path(weights))[:6]}-knn.smoke.yaml"
    plan = make_plan(load_grid(str(written)))
    assert [column.name for column in plan.columns] == ["knn"]
    random, checkpoint = (plan.rows[name][0] for name in ("random", "checkpoint"))
    assert set(checkpoint) - set(random) == {"checkpoint"}
    encoder = plan.runs[checkpoint["knn"]].spec["encoder"]
    assert plan.runs[random["knn"]].spec["encoder"] == encoder
    assert not list((results / "runs").glob("*"))  # a plan computes nothing


def test_names_of_tensors_that_a_terminal_would_obey_are_spelled_out(weights, tmp_path, capsys):
    state = torch.load(weights)
    torch.save({**state, "head.\x1b[31m.weight": torch.zeros(1)}, weights)
    words = ["evaluate", weights, "--scale", "smoke", "--protocols", "knn", "--results", str(tmp_path), "--dry-run"]
    assert main(words) == 0
    assert "1 left out (head.\\x1b[31m.weight)" in capsys.readouterr().err


def test_other_images_are_used_as_far_as_there_are_any(weights, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MIMBENCH_DATA", str(tmp_path / "data"))
    for split, count in (("train", 40), ("val", 7)):
        for kind in "ab":
            folder = tmp_path / "data" / "photos" / split / kind
            folder.mkdir(parents=True)
            for index in range(count):
                Image.fromarray(np.full((32, 32, 3), index, np.uint8)).save(folder / f"{index}.png")
    results = tmp_path / "results"
    words = ["evaluate", weights, "--data", "photos", "--scale", "smoke", "--results", str(results), "--dry-run"]
    assert main(words) == 0
    (written,) = (results / "evaluate").iterdir()
    plan = make_plan(load_grid(str(written), data="photos"))
    assert plan.grid.scale == "smoke-photos"
    spec = plan.runs[plan.rows["random"][0]["knn"]].spec
    assert spec["counts"] == {"labeled": 76, "val": 4, "test": 14}


def photos(folder, size=32):
    for kind in "ab":
        (folder / kind).mkdir(parents=True)
        for index in range(50):
            Image.fromarray(np.full((size, size, 3), index, np.uint8)).save(folder / kind / f"{index}.png")
    return folder


def evaluated(tmp_path, *words):
    """The grids that were written, after the command in --dry-run."""
    results = tmp_path / "results"
    assert main(["evaluate", *words, "--scale", "smoke", "--results", str(results), "--dry-run"]) == 0
    return {path.name.removesuffix(".yaml"): path for path in (results / "evaluate").iterdir()}


def test_files_folders_data_sets_and_protocols_of_one_name_are_grids_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place, dim in (("A", 64), ("B", 128)):
        model = VisionTransformer(img_size=32, patch_size=8, embed_dim=dim, depth=1, num_heads=1, num_classes=0)
        Path(place, "m").mkdir(parents=True)
        save_file(model.state_dict(), Path(place, "m", "model.safetensors"))
        photos(Path(place, "ds"))
    torch.save(model.state_dict(), "m.pth")
    heads = ("--set", "encoder.heads=1")
    evaluated(tmp_path, "A/m/model.safetensors", "--data", "./A/ds", *heads)
    evaluated(tmp_path, "A/m", "--data", "A/../A/ds", *heads)  # the same, written in another way
    evaluated(tmp_path, "A/m", "--data", "./B/ds", *heads)
    evaluated(tmp_path, "B/m/model.safetensors", "--data", "./B/ds", *heads)
    evaluated(tmp_path, "m.pth", "--data", "./B/ds", *heads)
    found = evaluated(tmp_path, "m.pth", "--data", "./B/ds", "--protocols", "knn", *heads)
    assert len(found) == 5
    assert all(re.fullmatch(r"evaluate-m-[0-9a-f]{6}(-knn)?\.smoke-ds-[0-9a-f]{4}", name) for name in found)
    for name, path in found.items():
        grid = load_grid(str(path))
        assert name.startswith(f"{grid.name}.")
        assert grid.rows[1].label == ("m.pth" if grid.rows[1].recipe.weights.endswith("m.pth") else "m")


def test_the_header_of_the_grid_is_a_command_that_plans_the_same_from_any_folder(
    weights, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "photos")
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"base": "smoke", "threads": 1}))
    words = ["theirs.pth", "--data", "./photos", "--scale", "mine", "--set", "encoder.norm_eps=1e-5", "--seeds", "2"]
    assert main(["evaluate", *words, "--results", "results", "--dry-run"]) == 0
    planned = capsys.readouterr().out
    (written,) = Path("results", "evaluate").iterdir()
    first, second, *_ = written.read_text().splitlines()
    assert "to add rows, copy it under another name" in first
    command = shlex.split(second.removeprefix("#"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main([*command[1:], "--dry-run"]) == 0
    assert capsys.readouterr().out == planned
    assert "2 seeds" in planned


@pytest.mark.parametrize(
    "bad", [["--data", "./nowhere"], ["--set", "encoder.heads=3"], ["--protocols", "segmentation"]]
)
def test_an_evaluation_that_cannot_be_planned_leaves_no_grid_and_replaces_none(weights, tmp_path, monkeypatch, bad):
    monkeypatch.chdir(tmp_path)
    photos(tmp_path / "photos")
    words = ["evaluate", weights, "--scale", "smoke", "--results", str(tmp_path / "results"), "--dry-run"]
    assert main([*words, "--data", "./photos", *bad]) == 2
    assert not (tmp_path / "results" / "evaluate").exists()
    assert main(words) == 0
    (written,) = (tmp_path / "results" / "evaluate").iterdir()
    before = written.read_bytes()
    assert main([*words, "--set", "protocols.knn.nothing=1"]) == 2
    assert written.read_bytes() == before


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--protocols", "kn"], "--protocols: unknown protocol 'kn'"),
        (["--protocols", "knn,knn"], "--protocols: knn is written twice."),
        (["--scale", "smok"], "mimbench: evaluate: unknown config in configs/scales 'smok'. Did you mean 'smoke'?"),
    ],
)
def test_a_wrong_option_is_refused_by_its_name(weights, tmp_path, capsys, more, sentence):
    assert main(["evaluate", weights, *more, "--results", str(tmp_path), "--dry-run"]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (
            ["nowhere.pth"],
            "no file nowhere.pth; allowed: a file, a folder with model.safetensors, timm:NAME or hf:NAME.",
        ),
        (
            ["timm:vit_base_patch16_2240"],
            "timm has no pretrained model of this name. Did you mean 'vit_base_patch16_22",
        ),
        (["timm:vit_base_patch16_224.ma"], "of this name. Did you mean 'vit_base_patch16_224.mae'?"),
        (["timm:resnet18"], "timm:resnet18 is a ResNet; timm's VisionTransformer and Beit are supported."),
        (["timm:eva02_tiny_patch14_224.mim_in22k"], "is a Eva; timm's VisionTransformer and Beit are supported."),
    ],
)
def test_what_is_no_checkpoint_of_a_vit_is_refused(more, sentence, tmp_path, capsys):
    assert main(["evaluate", *more, "--scale", "smoke", "--results", str(tmp_path), "--dry-run"]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("name", ["timm:vit_small_patch16_dinov3_nothing", "hf:somebody/something"])
def test_without_a_network_a_name_says_what_to_do_instead(name, tmp_path, capsys, monkeypatch):
    import huggingface_hub
    import timm

    def offline(*args, **options):
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    if name.startswith("timm"):
        known = timm.get_pretrained_cfg("vit_tiny_patch16_224")
        monkeypatch.setattr(timm, "get_pretrained_cfg", lambda _: known)
        monkeypatch.setattr(
            timm, "create_model", lambda *_, **__: VisionTransformer(embed_dim=64, depth=1, num_heads=1)
        )
    assert main(["evaluate", name, "--scale", "smoke", "--results", str(tmp_path), "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert f"{name}: could not be downloaded (OSError: no route to host)." in said
    assert "give its file or folder" in said


def test_the_released_models_that_ship_are_known_to_timm_and_have_an_encoder_like_ours(monkeypatch, tmp_path):
    asked = []

    def fetched(repository, file):
        asked.append(repository)
        return tmp_path / file

    monkeypatch.setattr(released, "_fetch", fetched)
    monkeypatch.setattr("timm.models._hub.download_cached_file", lambda url: asked.append(url) or tmp_path / "file")
    grid = load_grid("released")
    for row in grid.rows:
        _, described = released.locate(row.recipe.weights)
        if row.recipe.weights.startswith("timm:"):
            assert described.heads == {"b": 12, "l": 16, "h": 16}[row.name.split("-")[1]], row.name
            assert described.license
    assert len(set(asked)) == len(grid.rows)
