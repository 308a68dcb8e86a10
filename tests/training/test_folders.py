"""Folders as people really have them: other names, loose files, links, few images."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from mimbench.config.schema import DataConfig
from mimbench.data.sources import source
from mimbench.data.sources.splits import Content, Listed, Part
from mimbench.data.views import Images
from mimbench.errors import UserError


@pytest.fixture
def root(tmp_path):
    return tmp_path / "pets"


def fill(folder, count, suffix="png"):
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        Image.new("RGB", (4, 4)).save(folder / f"{index}.{suffix}")


def folder(root):
    return source(str(root))


def names(part):
    return sorted(f"{path.parent.name}/{path.name}" for path in part.images)


@pytest.mark.parametrize("train", ["train", "training", "Train"])
@pytest.mark.parametrize("test", ["val", "validation", "valid", "test", "Val"])
def test_splits_may_be_called_as_others_call_them(root, train, test):
    for name in ("cat", "dog"):
        fill(root / train / name, 3)
        fill(root / test / name, 2)
    content = folder(root).content
    assert content.classes == ("cat", "dog")
    assert (len(content.train.images), len(content.test.images)) == (6, 4)


def test_a_folder_with_a_splits_name_is_no_class(root):
    for split in ("validation", "test"):
        fill(root / split / "cat", 2)
    (root / "val").mkdir()
    with pytest.raises(UserError, match=r"pets/test: test is the name of a split, and there is no train/"):
        folder(root).counts()


def test_loose_images_and_files_of_other_types_are_counted(root):
    for name in ("cat", "dog"):
        fill(root / "train" / name, 30)
        fill(root / "val" / name, 30)
    assert folder(root).warnings() == []
    fill(root, 2)
    fill(root / "train", 3)
    fill(root / "test" / "cat", 4)
    (root / "train" / "cat" / "a.heic").touch()
    (root / "train" / "cat" / "notes.txt").touch()
    images, others = folder(root).warnings()
    assert "9 images are not used: 4 in test/, 2 in the folder itself, 3 in train/" in images
    assert "1 files of other types are not read: 1 .heic" in others
    assert folder(root).counts()["train"] == 60


def test_a_flat_train_beside_a_val_of_classes_serves_pre_training_and_says_what_is_not_used(root):
    fill(root / "train", 5)
    fill(root / "val" / "cat", 3)
    assert folder(root).counts()["train"] == 5
    assert any("3 images are not used: 3 in val/" in sentence for sentence in folder(root).warnings())
    with pytest.raises(UserError, match="has no labels"):
        folder(root).classes()


def test_a_flat_val_is_explained_by_what_the_folder_is(root):
    fill(root / "val", 3)
    for name, said in (("cat", r"Sort its images into folders by their class"), ("n01440764", "ILSVRC2012_devkit_t12")):
        fill(root / "train" / name, 3)
        with pytest.raises(UserError, match=said) as caught:
            folder(root).counts()
        assert ("ILSVRC" in str(caught.value)) == (name != "cat")


def test_linked_folders_are_followed_and_those_that_lead_back_are_not(root, tmp_path):
    fill(tmp_path / "elsewhere" / "more", 2)
    fill(tmp_path / "owls", 2)
    fill(root / "cat", 3)
    (root / "cat" / "linked").symlink_to(tmp_path / "elsewhere" / "more")
    (root / "owl").mkdir()
    (root / "owl" / "images").symlink_to(tmp_path / "owls")
    for back in ("loop", "again"):
        (root / "cat" / back).symlink_to(root if back == "loop" else root / "cat")
    (root / "self").symlink_to("self")
    (root / "up").symlink_to(root)
    content = folder(root).content
    assert content.classes == ("cat", "owl")
    assert names(content.train) == ["cat/0.png", "cat/1.png", "cat/2.png", "images/0.png", "images/1.png",
                                    "linked/0.png", "linked/1.png"]  # fmt: skip
    assert folder(root).flags(("train",), tmp_path / "cache") == []


class Given(Listed):
    """Labels without images."""

    def __init__(self, labels):
        super().__init__("given")
        self.labels = np.array(labels, np.int64)

    @property
    def content(self):
        classes = tuple(map(str, range(int(self.labels.max()) + 1)))
        return Content(Part(np.zeros(len(self.labels)), self.labels), None, classes, "", None)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=80))
def test_of_each_class_a_fifth_is_held_out_and_at_least_one_of_two(labels):
    data = Given(labels)
    part, test = data._split("test")
    rest = data._split("train")[1]
    assert sorted([*test, *rest]) == list(range(len(labels)))
    for label in set(labels):
        have, tested = labels.count(label), int((part.labels[test] == label).sum())
        assert tested == (have // 5 if have >= 5 else int(have >= 2))


def test_a_small_folder_tests_each_class_and_says_how_little_that_tells(root):
    for name in ("cat", "dog", "owl"):
        fill(root / name, 3)
    fill(root / "yak", 1)
    data = folder(root)
    assert data.counts()["test"] == 3
    missing, few = data.warnings()
    assert "no test images of yak" in missing
    assert "the test split has 3 images: one of them is 33.3 points" in few


def test_only_folders_whose_splits_changed_have_a_new_fingerprint(root, monkeypatch):
    from mimbench.data.sources import splits

    before = {}
    for rule in ("one", "another"):
        monkeypatch.setattr(splits, "TEST_RULE", rule)
        for layout in ("with val", "alone"):
            for name in ("cat", "dog"):
                fill(root / layout / "train" / name, 5)
                if layout == "with val":
                    fill(root / layout / "val" / name, 1)
            before[rule, layout] = folder(root / layout).facts(DataConfig())
    assert before["one", "with val"] == before["another", "with val"]
    assert before["one", "alone"] != before["another", "alone"]


@given(st.tuples(st.integers(8, 700), st.integers(8, 700)), st.sampled_from([16, 64, 160, 192, 224, 384]))
def test_the_center_crop_is_torchvisions(sides, size):
    image = Image.effect_noise(sides, 90).convert("RGB")
    short = round(size / 0.875) if 160 <= size < 384 else size  # the papers' 384 px are not cropped
    expected = v2.Compose([v2.Resize(short, v2.InterpolationMode.BICUBIC), v2.CenterCrop(size)])(image)
    images = Images([np.asarray(image)], np.zeros(1, np.int64), 1, DataConfig(size=size))
    found = (images.plain([0])[0] * 255).round().byte().permute(1, 2, 0).numpy()
    assert np.array_equal(found, np.asarray(expected))
