"""What a plan makes of data sets on disk."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from conftest import ROOT
from PIL import Image

from mimbench.config.grid import load_grid
from mimbench.data.sources import forget
from mimbench.data.sources.places import DATA_ROOT
from mimbench.errors import UserError
from mimbench.plan.graph import make_plan
from mimbench.plan.record import prepare, record
from mimbench.run.data import data_of
from mimbench.store.results import Store


@pytest.fixture
def photos(tmp_path, monkeypatch):
    for split, count in (("train", 40), ("val", 10)):
        for name in ("cat", "dog"):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                Image.fromarray(np.full((32, 32, 3), index, np.uint8)).save(folder / f"{index}.png")
    monkeypatch.setenv(DATA_ROOT, str(tmp_path))
    return tmp_path / "photos"


def plan_of(ablations, tmp_path, name="photos", images=60, **evaluation):
    scale = yaml.safe_load((ROOT / "configs" / "scales" / "smoke.yaml").read_text())
    scale["data"].update(name=name, images=images)
    scale["evaluation"] = {
        "data": {"name": name, "size": 32, "flip": False},
        "labeled": 50,
        "val": 3,
        "test": 8,
        **evaluation,
    }
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(scale))
    return make_plan(load_grid(ablations, seeds=1, scale=str(path)))


def test_images_without_masks_skip_the_segmentation_columns_and_say_so(photos, ablations, tmp_path):
    plan = plan_of(ablations, tmp_path)
    assert [column.name for column in plan.columns] == ["finetune", "linear_probe", "knn"]
    assert not any(run.kind.startswith("segmentation") for run in plan.runs.values())
    sentence, few = plan.notes
    assert "the test split has 20 images" in few
    assert "segmentation, segmentation_linear skipped: photos has no masks" in sentence
    assert sentence in record(plan)["note"]
    assert plan_of(ablations, tmp_path, segmentation_data="shapes").notes == [few]


def test_a_grid_of_which_no_protocol_is_left_is_an_error(photos, tmp_path):
    scale = yaml.safe_load((ROOT / "configs" / "scales" / "smoke.yaml").read_text())
    scale["data"].update(name="photos", images=60)
    scale["evaluation"] = {"data": {"name": "photos", "size": 32, "flip": False}, "labeled": 50, "val": 3, "test": 8}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(scale))
    grid = {
        "name": "g",
        "base": "beit",
        "scale": str(tmp_path / "own.yaml"),
        "protocols": ["segmentation"],
        "rows": [{"name": "a"}],
    }
    (tmp_path / "g.yaml").write_text(json.dumps(grid))
    with pytest.raises(UserError, match=r"photos has no masks.* No protocol is left"):
        make_plan(load_grid(str(tmp_path / "g.yaml"), seeds=1))


def test_runs_are_named_by_the_images_and_found_again_after_a_move(photos, ablations, tmp_path):
    plan, store = plan_of(ablations, tmp_path), Store(tmp_path / "results")
    prepare(plan, store)
    name = plan.rows["beit"][0]["pretrain"]
    assert data_of(store.run(name).spec()).name == "photos"
    photos.rename(tmp_path / "elsewhere")
    forget()
    with pytest.raises(UserError, match="photos"):
        data_of(store.run(name).spec())
    moved = plan_of(ablations, tmp_path, str(tmp_path / "elsewhere"))
    assert moved.runs.keys() == plan.runs.keys()
    assert moved.keys == plan.keys
    prepare(moved, store)  # the same folders, with the new place
    spec = store.run(name).spec()
    assert data_of(spec).name == str(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "train" / "cat" / "0.png").unlink()
    forget()
    with pytest.raises(UserError, match=r"its files have changed since the run was planned"):
        data_of(spec)


def test_labels_are_missed_while_planning(photos, ablations, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in (photos / "train" / "cat").iterdir():
        path.rename(flat / path.name)
    with pytest.raises(UserError, match="flat has no labels"):
        plan_of(ablations, tmp_path, "flat", 40, labeled=None, val=None, test=None)
    for path in (photos / "val" / "cat").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="photos has one class"):
        plan_of(ablations, tmp_path, "photos", 40, labeled=None, val=None, test=None)


def test_a_run_on_images_with_an_unreadable_one_finishes_and_says_so(photos, ablations, tmp_path):
    """In its flags, and in the fingerprint of its data: another results folder may have read the same files whole."""
    from mimbench.run.execute import execute
    from mimbench.runtime import Runtime

    broken = photos / "train" / "cat" / "3.png"
    intact, found = broken.read_bytes(), []
    plan_of(ablations, tmp_path)
    sets = ("schedule.steps=2", "schedule.warmup=1", "schedule.batch=8", "schedule.precision=fp32", "data.images=80")
    for content in (bytes(len(intact)), intact):
        broken.write_bytes(content)
        plan = make_plan(
            load_grid(ablations, seeds=1, scale=str(tmp_path / "own.yaml"), only=("no-tokens",), sets=sets)
        )
        store = Store(tmp_path / str(len(found)))
        prepare(plan, store)
        results = []
        for kind in ("pretrain", "features", "knn"):
            name = next(name for name, run in plan.runs.items() if run.kind == kind)
            assert execute(store, name, Runtime()) == "done"
            results.append((name, store.run(name).result()))
        found.append(results)
    for (name, with_damage), (again, whole) in zip(*found, strict=True):
        assert name == again
        assert any("1 unreadable of" in flag and "train/cat/3.png" in flag for flag in with_damage["flags"])
        assert not any("unreadable" in flag for flag in whole["flags"])
    assert found[0][-1][1]["data"]["fingerprint"] != found[1][-1][1]["data"]["fingerprint"]


def test_a_grid_on_other_images_has_a_name_and_counts_of_its_own_and_no_note_of_the_scale(photos, ablations):
    plan = make_plan(load_grid(ablations, seeds=1, scale="tiny", data="photos"))
    assert plan.grid.scale == "tiny-photos"
    assert "designed" not in plan.grid.scale_note
    assert plan.runs[plan.rows["beit"][0]["knn"]].spec["counts"] == {"labeled": 76, "val": 4, "test": 20}
    assert plan.runs[plan.rows["beit"][0]["pretrain"]].spec["recipe"]["data"]["images"] == 80
    by_path = make_plan(load_grid(ablations, seeds=1, scale="tiny", data=str(photos)))
    assert by_path.rows == plan.rows
    own = load_grid(ablations, scale="tiny", data="shapes")
    assert own.scale == "tiny"
    assert "designed" in own.scale_note


def test_beits_ablation_as_published_is_planned_on_imagenet_and_ade20k_as_they_are_distributed(tmp_path, monkeypatch):
    monkeypatch.setenv(DATA_ROOT, str(tmp_path))
    for split, count in (("train", 1300), ("val", 50)):
        for wnid in ("n01440764", "n01443537"):
            (tmp_path / "imagenet" / split / wnid).mkdir(parents=True)
            for index in range(count // 50):
                (tmp_path / "imagenet" / split / wnid / f"{wnid}_{index}.JPEG").touch()
    for split, count in (("training", 25), ("validation", 2)):
        for kind, suffix in (("images", "jpg"), ("annotations", "png")):
            (tmp_path / "ade20k" / kind / split).mkdir(parents=True)
            for index in range(count):
                (tmp_path / "ade20k" / kind / split / f"ADE_{index:08d}.{suffix}").touch()
    plan = make_plan(load_grid("beit_paper"))
    assert [column.name for column in plan.columns] == ["finetune", "segmentation", "linear_probe_beit"]
    assert {run.kind for run in plan.runs.values()} == {
        "tokenizer",
        "pretrain",
        *(column.name for column in plan.columns),
    }
    settings = plan.columns[1].settings
    assert (settings["head"], settings["steps"], settings["crop"]) == ("setr_pup", 160_000, 512)


@pytest.fixture
def masks(photos, tmp_path):
    for split, count in (("training", 40), ("validation", 3)):
        for kind, shape in (("images", (8, 8, 3)), ("annotations", (8, 8))):
            (tmp_path / "photos" / kind / split).mkdir(parents=True)
            for index in range(count):
                image = Image.fromarray(np.zeros(shape, np.uint8))
                image.save(tmp_path / "photos" / kind / split / f"{index}.png")
    (tmp_path / "photos" / "classes.json").write_text('["road", "sky"]')
    return tmp_path / "photos"


def weights(plan):
    """Of the first class, by protocol."""
    return {c.name: c.settings["first_class_weight"] for c in plan.columns if "first_class_weight" in c.settings}


def test_the_weight_of_the_first_class_belongs_to_the_built_in_data(masks, ablations, tmp_path):
    both = ("segmentation", "segmentation_linear")
    plan = lambda scale, **more: weights(make_plan(load_grid(ablations, seeds=1, scale=scale, **more)))
    assert plan("tiny") == dict.fromkeys(both, 0.3)
    assert plan("tiny", data="photos") == dict.fromkeys(both, 1.0)
    stated = "protocols.segmentation.first_class_weight=0.5"
    assert plan("tiny", data="photos", sets=(stated,)) == {"segmentation": 0.5, "segmentation_linear": 1.0}
    path = tmp_path / "own.yaml"
    scale = {
        "base": "tiny",
        "evaluation": {"segmentation_data": "photos", "segmentation": {"labeled": 30, "val": 2, "test": 3}},
    }
    path.write_text(yaml.safe_dump(scale))
    assert plan(str(path)) == dict.fromkeys(both, 1.0)
    path.write_text(yaml.safe_dump({**scale, "protocols": {"segmentation": {"first_class_weight": 0.2}}}))
    assert plan(str(path)) == {"segmentation": 0.2, "segmentation_linear": 1.0}


def test_of_one_training_image_with_a_mask_none_is_left_to_train_and_the_plan_says_so(masks, ablations):
    for path in (masks / "images" / "training").glob("[1-9]*.png"):
        path.unlink()
    with pytest.raises(UserError, match=r"photos/labeled: no images \(labeled 0, val 1, test 3\)"):
        make_plan(load_grid(ablations, seeds=1, scale="tiny", data="photos"))
