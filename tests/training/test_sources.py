"""Data sets on disk, in the layouts in which people have them."""

from __future__ import annotations

import csv
import pickle

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from mimbench.config.schema import DataConfig
from mimbench.data.sources import source
from mimbench.data.sources.cifar import Cifar
from mimbench.data.sources.places import DATA_ROOT
from mimbench.errors import UserError

SPLITS = ("train", "labeled", "val", "test")
CONFIG = DataConfig(size=8)


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv(DATA_ROOT, str(tmp_path))
    return tmp_path


def fill(folder, count, value=0, suffix="png"):
    """Images whose red channel is `value`, so that a label can be checked against its pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        pixels = np.full((10, 12, 3), (value, index % 256, index // 256), np.uint8)
        Image.fromarray(pixels).save(folder / f"{folder.parent.name}_{folder.name}_{index}.{suffix}")


def reds(images):
    """The red channel of each image: what class was drawn into it."""
    return [int(images.plain([i])[0, 0, 4, 4] * 255 + 0.5) for i in range(len(images))]


def test_class_folders_may_come_with_val_with_test_or_alone(root, tmp_path):
    for layout, train, tests in (("a", "train", "val"), ("b", "train", "test"), ("c", "train", None), ("d", "", None)):
        for label, name in enumerate(("cat", "dog")):
            fill(root / layout / train / name, 30, label)
            if tests:
                fill(root / layout / tests / name, 4, label)
        data = source(layout)
        splits = {split: data.load(CONFIG, split, tmp_path / "cache") for split in SPLITS}
        assert data.counts() == {split: len(found) for split, found in splits.items()}
        expected = [60, 57, 3, 8] if tests else [48, 45, 3, 12]  # without a test split, every fifth image is held out
        assert [len(splits[split]) for split in SPLITS] == expected
        sources = [set(splits[split].source) for split in ("labeled", "val", "test")]
        assert len(set.union(*sources)) == sum(map(len, sources))
        assert set(splits["train"].source) == sources[0] | sources[1]
        assert all(reds(found) == found.labels.tolist() for found in splits.values())


@pytest.mark.parametrize("flat", ["", "train"])
def test_images_without_class_folders_serve_pre_training_alone(root, flat, tmp_path):
    fill(root / "pile" / flat, 40)
    data = source("pile")
    assert data.counts() == {"train": 40, "labeled": 38, "val": 2, "test": 0}
    assert len(data.load(CONFIG, "train", tmp_path / "cache")) == 40
    with pytest.raises(UserError, match=r"pile has no labels .* can pre-train"):
        data.check_labels("evaluation")


def test_a_data_set_is_the_same_by_name_by_path_and_after_a_move(root, monkeypatch):
    for label, name in enumerate(("cat", "dog")):
        fill(root / "pets" / "train" / name, 6, label)
    monkeypatch.chdir(root)
    facts = source("pets").facts(CONFIG)
    assert source("./pets").facts(CONFIG) == source(str(root / "pets")).facts(CONFIG) == facts
    assert "pets" not in str(facts)
    assert source("pets").place() == "pets"
    assert source("./pets").place() == str(root / "pets")
    (root / "pets").rename(root / "moved")
    assert source("moved").facts(CONFIG) == facts
    (root / "moved" / "train" / "cat").rename(root / "moved" / "train" / "cow")
    assert source("moved").facts(CONFIG) != facts


def test_a_missing_data_set_with_a_layout_of_its_own_says_what_to_put_where(root):
    with pytest.raises(UserError, match=r"mimbench data get cifar10`, or put there cifar-10-batches-py/"):
        source("cifar10").counts()
    with pytest.raises(UserError, match=r"no folder \./nowhere"):
        source("./nowhere").counts()


def test_a_misspelled_data_set_with_masks_is_named_with_its_key(root):
    (root / "streets" / "images").mkdir(parents=True)
    with pytest.raises(UserError, match=r"segmentation_data \(.*unknown data set 'strets'\. Did you mean 'streets'"):
        source("strets").segmentation_facts()


def test_a_folder_of_nothing_is_an_error_that_lists_the_layouts(root):
    (root / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: no images\. Expected: train/"):
        source("empty").counts()


def test_tiny_imagenet_is_read_as_stanford_distributes_it(root, tmp_path):
    place = root / "tiny-imagenet-200"
    for label, wnid in enumerate(("n01", "n02")):
        fill(place / "train" / wnid / "images", 10, label, "JPEG")
    fill(place / "val" / "images", 6, 1, "JPEG")
    names = sorted(p.name for p in (place / "val" / "images").iterdir())
    fill(place / "test" / "images", 3, 0, "JPEG")
    (place / "val" / "val_annotations.txt").write_text("".join(f"{n}\tn02\t0\t0\t62\t62\n" for n in names))
    data = source("tiny-imagenet-200")
    assert data.counts() == {"train": 20, "labeled": 19, "val": 1, "test": 6}
    assert set(data.load(CONFIG, "test", tmp_path).labels) == {1}
    (place / "val" / "val_annotations.txt").write_text("no tab\n")
    with pytest.raises(UserError, match=r"val_annotations\.txt, line 1"):
        source("tiny-imagenet-200").counts()


@pytest.fixture
def flat_imagenet(root):
    """train/ by wnid, and a flat val/ of eight images of the classes 1, 2, 1, 2, ..."""
    for label, wnid in enumerate(("n01", "n02")):
        fill(root / "imagenet" / "train" / wnid, 10, label, "JPEG")
    (root / "imagenet" / "val").mkdir()
    for index in range(1, 9):
        Image.fromarray(np.full((9, 9, 3), 1 - index % 2, np.uint8)).save(
            root / "imagenet" / "val" / f"ILSVRC2012_val_{index:08d}.JPEG"
        )
    return root / "imagenet"


def test_a_flat_imagenet_gets_its_labels_from_the_development_kit(flat_imagenet, tmp_path):
    kit = flat_imagenet / "ILSVRC2012_devkit_t12" / "data"
    kit.mkdir(parents=True)
    kinds = [("ILSVRC2012_ID", "i4"), ("WNID", "O"), ("num_children", "i4")]
    savemat(kit / "meta.mat", {"synsets": np.array([(2, "n01", 0), (1, "n02", 0), (3, "n99", 2)], kinds)})
    (kit / "ILSVRC2012_validation_ground_truth.txt").write_text("2\n1\n" * 4)  # 2 is n01 here
    images = source("imagenet").load(CONFIG, "test", tmp_path)
    assert reds(images) == images.labels.tolist()
    (kit / "ILSVRC2012_validation_ground_truth.txt").write_text("2\n")
    with pytest.raises(UserError, match=r"1 lines for 8 images"):
        source("imagenet").counts()
    (kit / "ILSVRC2012_validation_ground_truth.txt").write_text("2\n3\n" * 4)
    with pytest.raises(UserError, match=r"no class number"):
        source("imagenet").counts()


def test_a_flat_imagenet_gets_its_labels_from_kaggles_table(flat_imagenet, tmp_path):
    with pytest.raises(
        UserError, match=r"Sort them into folders, or put ILSVRC2012_devkit_t12/ or LOC_val_solution\.csv"
    ):
        source("imagenet").counts()
    with (flat_imagenet / "LOC_val_solution.csv").open("w") as stream:
        table = csv.writer(stream)
        table.writerow(["ImageId", "PredictionString"])
        table.writerows([f"ILSVRC2012_val_{i:08d}", f"{'n01' if i % 2 else 'n02'} 1 2 3 4"] for i in range(1, 9))
    images = source("imagenet").load(CONFIG, "test", tmp_path)
    assert reds(images) == images.labels.tolist()


def cifar(folder, batches, test, names, names_key, labels_key, classes):
    folder.mkdir(parents=True)
    for number, name in enumerate((*batches, test)):
        labels = [(number + i) % classes for i in range(10)]
        data = np.zeros((10, 3072), np.uint8)
        data[:, :1024] = np.array(labels)[:, None]  # the red plane
        with (folder / name).open("wb") as stream:
            pickle.dump({"data": data, labels_key: labels, "batch_label": name}, stream, protocol=2)
    with (folder / names).open("wb") as stream:
        pickle.dump({names_key: [f"class {i}" for i in range(classes)]}, stream, protocol=2)


def test_cifar_is_read_from_its_official_pickles_at_any_size(root, tmp_path):
    batches = [f"data_batch_{i}" for i in range(1, 6)]
    cifar(root / "cifar10" / "cifar-10-batches-py", batches, "test_batch", "batches.meta", "label_names", "labels", 10)
    cifar(root / "cifar100" / "cifar-100-python", ["train"], "test", "meta", "fine_label_names", "fine_labels", 100)
    for name, count, classes in (("cifar10", 50, 10), ("cifar100", 10, 100)):
        data = source(name)
        assert isinstance(data, Cifar)
        assert (data.classes(), data.counts()["train"], data.counts()["test"]) == (classes, count, 10)
        for size in (32, 16):
            images = data.load(DataConfig(size=size), "train", tmp_path)
            assert isinstance(images.source, np.ndarray) == (size == 32)
            assert images.plain([0]).shape == (1, 3, size, size)
            red = [int(images.plain([i])[0, 0, 4, 4] * 255 + 0.5) for i in range(len(images))]
            assert red == images.labels.tolist()
    inside = source(str(root / "cifar10" / "cifar-10-batches-py"))
    assert inside.facts(CONFIG) == source("cifar10").facts(CONFIG)


class Evil:
    def __reduce__(self):
        import os

        return os.system, ("echo must not run",)


@pytest.mark.parametrize("content", [Evil(), {"data": Evil()}, [1], {"data": np.zeros((2, 5), np.uint8), "labels": [0, 1]},
                                     {"data": np.zeros((2, 3072), np.uint8), "labels": [0, 99]}])  # fmt: skip
def test_a_pickle_that_is_not_cifars_is_refused_and_runs_nothing(root, content, capfd):
    folder = root / "cifar10" / "cifar-10-batches-py"
    cifar(folder, [f"data_batch_{i}" for i in range(1, 6)], "test_batch", "batches.meta", "label_names", "labels", 10)
    with (folder / "data_batch_3").open("wb") as stream:
        pickle.dump(content, stream)
    with pytest.raises(UserError, match=r"data_batch_3: "):
        source("cifar10").counts()
    assert "must not run" not in capfd.readouterr().out


def test_a_class_without_test_images_is_told_and_one_without_training_images_refused(root):
    for label, name in enumerate(("cat", "dog", "owl")):
        fill(root / "pets" / "train" / name, 5, label)
    fill(root / "pets" / "val" / "cat", 2)
    missing, few = source("pets").warnings()
    assert "no test images of dog, owl" in missing
    assert "the test split has 2 images: one of them is 50.0 points" in few
    fill(root / "pets" / "val" / "wolf", 1)
    with pytest.raises(UserError, match=r"no training images of its class: unknown class 'wolf'"):
        source("pets").warnings()


def test_one_class_or_one_image_is_refused_where_labels_are_read(root):
    fill(root / "one" / "train" / "cat", 30)
    with pytest.raises(UserError, match="one has one class"):
        source("one").check_labels("evaluation")
    fill(root / "two" / "train" / "cat", 1)
    fill(root / "two" / "val" / "cat", 1)
    with pytest.raises(UserError, match=r"two/labeled: no images \(train 1, labeled 0, val 1, test 1\)"):
        source("two").check_counts({"labeled": None}, "evaluation")


def test_one_segmentation_training_image_is_refused(root):
    for split in ("training", "validation"):
        for kind in ("images", "annotations"):
            fill(root / "scenes" / kind / split, 1)
            (next((root / "scenes" / kind / split).iterdir())).rename(root / "scenes" / kind / split / "a.png")
    (root / "scenes" / "classes.json").write_text('["a", "b"]')
    with pytest.raises(UserError, match=r"scenes/labeled: no images"):
        source("scenes").check_counts({"labeled": None}, "evaluation", masks=True)


def test_an_image_without_mask_and_images_of_two_types_are_errors(root):
    fill(root / "scenes" / "images" / "training", 2)
    (root / "scenes" / "annotations" / "training").mkdir(parents=True)
    (root / "scenes" / "classes.json").write_text('["a", "b"]')
    with pytest.raises(UserError, match=r"images_training_0\.png: no mask"):
        source("scenes").segmentation_facts()
    fill(root / "scenes" / "images" / "training", 2, suffix="jpg")
    with pytest.raises(UserError, match=r"several types \(\.jpg, \.png\)"):
        source("scenes").segmentation_facts()
