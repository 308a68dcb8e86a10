"""Errors that once named the wrong thing: each names the file, the key and what to write instead."""

from __future__ import annotations

import pytest
import yaml
from commands import mimbench
from PIL import Image

from mimbench.config.grid import load_grid
from mimbench.plan.description import descriptions


def refused(*words):
    done = mimbench(*words)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("mimbench: ")]
    return line


def written(folder, **grid):
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({"base": "beit", "scale": "smoke", "protocols": ["knn"], **grid}))
    return path


@pytest.mark.parametrize("text", ["protocols=[finetune]", "protocols.finetune=3"])
def test_protocols_given_as_a_setting_are_pointed_to_their_option(text):
    assert f"--set {text}: a setting of a protocol is written protocols.NAME.KEY=VALUE" in refused(
        "plan", "ablations", "--set", text
    )
    assert "use --protocols A,B" in refused("plan", "ablations", "--set", text)


def test_a_dim_that_the_heads_do_not_divide_is_an_error_of_who_set_it_last(tmp_path):
    path = written(tmp_path, rows=[{"name": "a", "encoder": {"dim": 65}}])
    assert f"{path}: rows.0.encoder.dim: encoder.heads: 2 does not divide dim 65." in refused("plan", path)
    assert "--set encoder.dim: encoder.heads: 2 does not divide dim 65." in refused(
        "plan", "ablations", "--set", "encoder.dim=65"
    )


def test_an_unknown_data_set_offers_folders_that_may_be_one(tmp_path, monkeypatch):
    for name in ("pets/train/cat", "results/runs", "results/grids", "results/reports/x", "empty", ".cache/x"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setenv("MIMBENCH_DATA", str(tmp_path))
    assert refused("plan", "ablations", "--data", "pest").endswith("Did you mean 'pets'? Allowed: pets, shapes.")


def test_a_folder_with_train_alone_is_split_and_one_without_images_is_no_unknown_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / "flat" / "train" / name).mkdir(parents=True)
    assert "flat: no images. Expected: train/ and val/" in refused(
        "plan", "ablations", "--data", "./flat", "--scale", "smoke"
    )
    for index in range(60):
        Image.new("RGB", (32, 32), (index % 250, 0, 0)).save(
            tmp_path / "flat" / "train" / "ab"[index % 2] / f"{index}.png"
        )
    done = mimbench("plan", "ablations", "--data", "./flat", "--scale", "smoke", "--seeds", "1", "--only", "scratch")
    assert done.returncode == 0, done.stderr


def test_an_unknown_grid_and_a_folder_without_grids_are_named_once(tmp_path):
    assert refused("plan", "ablatoins").startswith(
        "mimbench: configs: unknown config 'ablatoins'. Did you mean 'ablations'?"
    )
    assert refused("plan", "./ablatoins.yaml").startswith("mimbench: ./ablatoins.yaml: no such file.")
    assert refused("report", "--results", tmp_path) == f"mimbench: {tmp_path}: no grid has been run there yet."


def test_rows_that_differ_in_one_value_are_described_by_it(tmp_path):
    rows = [{"name": f"r{ratio}", "masker": {"type": "random", "ratio": ratio}} for ratio in (0.4, 0.6)]
    found = descriptions(load_grid(str(written(tmp_path, rows=rows))).rows)
    assert [words.rpartition(", ")[2] for words in found.values()] == ["masker.ratio 0.4", "masker.ratio 0.6"]
