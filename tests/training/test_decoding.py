"""Image files as people have them: rotated, in odd modes, damaged."""

from __future__ import annotations

import errno
import io
import os
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from mimbench.config.schema import DataConfig
from mimbench.data import decoding, scan
from mimbench.data.decoding import Picture
from mimbench.data.packing import pack
from mimbench.data.sources import source
from mimbench.data.sources.places import DATA_ROOT
from mimbench.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)


def open_image(path):
    return Picture(path).pixels()


@pytest.mark.parametrize("turn", range(1, 9))
def test_the_rotation_that_a_camera_noted_is_applied(turn, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = turn
    for name in ("a.jpg", "a.png", "a.webp"):
        Image.fromarray(PIXELS).save(tmp_path / name, exif=exif)
        with Image.open(tmp_path / name) as image:
            expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        picture = Picture(tmp_path / name)
        assert picture.size == expected.shape[1::-1]
        assert np.array_equal(np.asarray(picture.pixels()), expected)


def test_a_rotated_jpeg_that_is_decoded_smaller_keeps_its_sides(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).resize((800, 480)).save(tmp_path / "a.jpg", exif=exif)
    assert Picture(tmp_path / "a.jpg").pixels((120, 200)).size == (120, 200)  # a quarter of 480 x 800


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1"])
def test_every_mode_becomes_rgb_as_pillow_converts_it(mode, tmp_path):
    image = Image.fromarray(PIXELS).convert(mode)
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    image.save(path)
    with Image.open(path) as found:
        assert np.array_equal(np.asarray(open_image(path)), np.asarray(found.convert("RGB")))


def test_a_palette_with_transparency_becomes_rgb_without_a_warning(tmp_path, recwarn):
    image = Image.fromarray(PIXELS).quantize(16)
    image.save(tmp_path / "a.png", transparency=bytes(range(16)))
    assert open_image(tmp_path / "a.png").mode == "RGB"
    assert not recwarn.list


def test_16_bit_gray_is_scaled_and_not_clipped_to_white(tmp_path):
    gray = np.linspace(0, 65535, 24 * 40).reshape(24, 40).astype(np.uint16)
    Image.fromarray(gray).save(tmp_path / "a.png")
    found = np.asarray(open_image(tmp_path / "a.png"))
    assert np.array_equal(found[..., 0], np.rint(gray / 257).astype(np.uint8))
    assert np.array_equal(found[..., 0], found[..., 2])


def damaged(folder):
    """Files that are no images, by name."""
    jpeg = io.BytesIO()
    Image.fromarray(PIXELS).resize((200, 120)).save(jpeg, "JPEG")
    (folder / "truncated.jpg").write_bytes(jpeg.getvalue()[: len(jpeg.getvalue()) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.png").write_text("not an image")
    bomb = Image.new("1", (30_000, 30_000))
    bomb.save(folder / "bomb.png")
    Image.new("1", (9_500, 9_500)).save(folder / "large.png")  # above Pillow's warning, below its error
    return {"truncated.jpg", "empty.jpg", "text.png", "bomb.png", "large.png"}


def test_an_unreadable_image_is_named_in_one_sentence(tmp_path):
    for name in damaged(tmp_path):
        with pytest.raises(UserError, match=rf"{name}: not readable as an image \(.+\)\.$"):
            open_image(tmp_path / name)
    assert 9_500**2 > decoding.MAX_PIXELS > 9_000**2


@pytest.fixture
def pets(tmp_path, monkeypatch):
    for split, count in (("train", 30), ("val", 6)):
        for name in ("cat", "dog"):
            (tmp_path / "pets" / split / name).mkdir(parents=True)
            for index in range(count):
                red = np.full((10, 10, 3), (index, name == "dog", 0), np.uint8)
                Image.fromarray(red).save(tmp_path / "pets" / split / name / f"{index:02d}.png")
    monkeypatch.setenv(DATA_ROOT, str(tmp_path))
    return tmp_path / "pets"


def test_unreadable_images_are_left_out_counted_and_named_and_labels_stay_aligned(pets, tmp_path):
    config, cache = DataConfig(size=8), tmp_path / "cache"
    before = {split: source("pets").load(config, split, tmp_path / "clean") for split in ("train", "test")}
    order = [path for path in before["train"].source if path.name != "07.png" or "cat" not in str(path)]
    (pets / "train" / "cat" / "07.png").write_bytes(b"torn")
    data = source("pets")
    images = data.load(config, "train", cache)
    assert images.source == order  # the others keep their places
    assert [int(v) for v in (images.plain(range(59))[:, 1, 4, 4] * 255).round()] == images.labels.tolist()
    assert data.flags(("train",), cache) == ["1 unreadable of 60 images left out of train: train/cat/07.png"]
    assert data.flags(("test",), cache) == []
    assert len(images.head(60)) == 59  # as many as were planned, but for the unreadable one
    with pytest.raises(UserError, match="requested 61 images, only 60"):
        images.head(61)


def test_every_file_is_decoded_once_per_results_folder(pets, tmp_path, monkeypatch):
    decoded, original = [], scan._failure
    monkeypatch.setattr(scan, "_failure", lambda path: decoded.append(path) or original(path))
    for _ in range(2):
        for split in ("train", "test"):
            source("pets").load(DataConfig(size=8), split, tmp_path / "cache")
    assert len(decoded) == len(set(decoded)) == 72


def test_a_split_without_a_readable_image_is_an_error(pets, tmp_path):
    for path in (pets / "val").rglob("*.png"):
        path.write_bytes(b"torn")
    with pytest.raises(UserError, match="pets/test: not one of 12 images is readable"):
        source("pets").load(DataConfig(size=8), "test", tmp_path / "cache")


def test_a_folder_called_like_an_image_and_hidden_files_are_no_images(pets):
    (pets / "train" / "cat" / "x.jpg").mkdir()
    (pets / "train" / "cat" / "._00.png").write_bytes(b"of a Mac")
    assert source("pets").counts()["train"] == 60


def test_a_name_that_is_not_utf_8_and_a_dangling_link_are_sentences(pets):
    (pets / "train" / "cat" / "lost.png").symlink_to("nowhere")
    with pytest.raises(UserError, match=r"lost\.png: cannot be read \(No such file"):
        source("pets").facts(DataConfig())
    (pets / "train" / "cat" / "lost.png").unlink()
    with open(os.fsencode(pets / "train" / "cat") + b"/\xff.png", "wb"):
        pass
    with pytest.raises(UserError, match=r"\\xff\.png': the name is not UTF-8"):
        source("pets").facts(DataConfig())


def test_results_on_images_of_one_class_say_so(pets, tmp_path):
    data, splits = source("pets"), ("train", "labeled", "val", "test")
    assert data.flags(splits, tmp_path / "before") == []
    for path in (pets / "val" / "dog").iterdir():
        path.write_bytes(b"torn")
    *_, said = source("pets").flags(splits, tmp_path / "torn")
    assert said == "test shows one class, cat: accuracy on it says nothing"
    for path in (pets / "train" / "dog").iterdir():
        path.write_bytes(b"torn")
    found = [flag.partition(",")[0] for flag in source("pets").flags(splits, tmp_path / "more") if "one class" in flag]
    assert found == ["labeled shows one class", "val shows one class", "test shows one class"]


def test_a_data_set_of_one_class_says_so_and_serves_no_protocol_that_reads_labels(pets):
    for split in ("train", "val"):
        shutil.rmtree(pets / split / "dog")
    (said,) = source("pets").warnings()
    assert "pets: one class, cat: these images can pre-train" in said
    with pytest.raises(UserError, match="one class; a protocol that reads labels needs at least two"):
        source("pets").check_labels("evaluation")


def test_an_image_of_50_000_pixels_a_side_is_left_out_by_its_header(pets, tmp_path):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(10)))
    (pets / "train" / "cat" / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b""))
    (flag,) = source("pets").flags(("train",), tmp_path / "cache")
    assert flag == "1 unreadable of 61 images left out of train: train/cat/huge.png"


@pytest.mark.parametrize("file", ["pack.json", "train-index.npy", "train-labels.npy", "train-00000.bin"])
@pytest.mark.parametrize("kept", [0.0, 0.5])
def test_a_truncated_file_of_a_packed_data_set_is_named_in_one_sentence(pets, tmp_path, file, kept):
    path = pack(source("pets"), 8, tmp_path / "packed") / file
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(UserError, match=r"packed.*(Pack the data set again|not readable as the description)"):
        source("packed").load(DataConfig(size=8), "train", tmp_path / "cache")


@pytest.mark.parametrize("key", ["name", "bytes", "sha256"])
def test_a_damaged_description_of_a_packed_data_set_is_named_in_one_sentence(pets, tmp_path, key):
    path = pack(source("pets"), 8, tmp_path / "packed") / "pack.json"
    path.write_text(path.read_text().replace(f'"{key}"', '"other"'))
    with pytest.raises(UserError, match=r"pack\.json: not readable as the description of a packed data set"):
        source("packed").counts()


@pytest.fixture
def scenes(tmp_path, monkeypatch):
    for split, count in (("training", 24), ("validation", 3)):
        for kind in ("images", "annotations"):
            (tmp_path / "scenes" / kind / split).mkdir(parents=True)
            for index in range(count):
                Image.fromarray(np.zeros((8, 8, 3) if kind == "images" else (8, 8), np.uint8)).save(
                    tmp_path / "scenes" / kind / split / f"{index:02d}.png"
                )
    (tmp_path / "scenes" / "classes.json").write_text('["a", "b"]')
    monkeypatch.setenv(DATA_ROOT, str(tmp_path))
    return tmp_path / "scenes"


def opened_splits(name, cache, **counts):
    """split -> the names of its images"""
    from mimbench.data.segmentation import open_split

    data = source(name)
    root, lost = data.segmentation_root(DataConfig(), counts, cache), data.segmentation_left_out(cache)
    splits = {split: open_split(root, split, [], counts.get(split), lost) for split in ("labeled", "val", "test")}
    return {
        split: [Path(data.get_data_info(i)["img_path"]).name for i in range(len(data))]
        for split, data in splits.items()
    }


def test_unreadable_images_with_masks_are_left_out_and_change_no_split(scenes, tmp_path):
    before = opened_splits("scenes", tmp_path / "clean", labeled=22, val=2, test=3)
    assert [len(names) for names in before.values()] == [22, 2, 3]
    (scenes / "images" / "training" / "00.png").write_bytes(b"torn")
    (scenes / "images" / "training" / "03.png").write_bytes(b"torn")
    (scenes / "annotations" / "validation" / "01.png").write_bytes(b"torn")
    found = opened_splits("scenes", tmp_path / "cache", labeled=22, val=2, test=3)  # as many as `--data` sets
    assert found["labeled"] == [name for name in before["labeled"] if name != "03.png"]
    assert found["val"] == [name for name in before["val"] if name != "00.png"] == ["20.png"]
    assert found["test"] == ["00.png", "02.png"]
    (flag,) = source("scenes").segmentation_flags(tmp_path / "cache")
    assert flag == (
        "3 images left out, unreadable or with an unreadable mask: images/training/00.png, images/training/03.png, "
        "images/validation/01.png"
    )


def test_of_fewer_images_than_there_are_an_unreadable_one_is_replaced_by_the_next(scenes, tmp_path):
    before = opened_splits("scenes", tmp_path / "clean", labeled=10)["labeled"]
    (scenes / "images" / "training" / before[4]).write_bytes(b"torn")
    found = opened_splits("scenes", tmp_path / "cache", labeled=10)["labeled"]
    assert len(found) == 10
    assert found[:9] == before[:4] + before[5:]


def test_images_with_masks_may_move_after_one_was_found_unreadable(scenes, tmp_path):
    (scenes / "images" / "training" / "03.png").write_bytes(b"torn")
    before = opened_splits("scenes", tmp_path / "cache")
    scenes.rename(tmp_path / "moved")
    assert opened_splits("moved", tmp_path / "cache") == before
    (image, *_) = source("moved").segmentation_root(DataConfig(), {}, tmp_path / "cache").glob("images/*/01.png")
    assert Image.open(image).size == (8, 8)


@pytest.mark.parametrize(("value", "said"), [(3, r"label 3, and 2 classes are named"), ((0, 1, 0), "several channels")])
def test_a_mask_that_does_not_fit_the_classes_is_named_before_any_compute(scenes, tmp_path, value, said):
    mask = Image.new("L" if isinstance(value, int) else "RGB", (8, 8), value)
    for name in ("02.png", "05.png"):
        mask.save(scenes / "annotations" / "training" / name)
    with pytest.raises(UserError, match=rf"annotations/training/02\.png: {said}.* And 1 more"):
        source("scenes").segmentation_root(DataConfig(), {}, tmp_path / "cache")


@pytest.mark.parametrize(("highest", "flags"), [(31, 1), (75, 1), (76, 0), (150, 0)])
def test_a_folder_that_is_ade20k_by_its_name_alone_is_flagged_where_labels_stay_far_below(
    scenes, tmp_path, highest, flags
):
    (scenes / "classes.json").unlink()
    for path in (scenes / "annotations").rglob("*.png"):
        Image.new("L", (8, 8), 31).save(path)
    Image.new("L", (8, 8), highest).save(scenes / "annotations" / "training" / "02.png")
    scenes.rename(tmp_path / "ade20k")
    found = source("ade20k").segmentation_flags(tmp_path / "cache")
    assert len(found) == flags
    assert all("scored by ADE20K's 150 classes for its name: write classes.json" in flag for flag in found)
    (tmp_path / "ade20k" / "objectInfo150.txt").touch()
    assert source("ade20k").segmentation_flags(tmp_path / "cache") == []


def test_a_mask_of_another_size_than_its_image_is_named_before_any_compute(scenes, tmp_path):
    Image.new("L", (8, 6)).save(scenes / "annotations" / "training" / "02.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # mmcv turns the image and not the mask
    for folder, turn in (("images", exif), ("annotations", None)):
        Image.new("RGB" if turn else "L", (8, 6)).save(scenes / folder / "validation" / "01.png", exif=turn)
    with pytest.raises(UserError, match=r"training/02\.png: 8 x 6 pixels, and its image has 8 x 8\..* And 1 more"):
        source("scenes").segmentation_root(DataConfig(), {}, tmp_path / "cache")
    faults = source("scenes").size_faults(tmp_path / "cache")
    assert faults["annotations/validation/01.png"] == "8 x 6 pixels, and its image has 6 x 8."


@pytest.mark.parametrize(
    ("names", "said"),
    [("[" * 100_000, "not readable as JSON"), ('["a", "\\u001b[31m"]', r"the character U\+001B is allowed in no name")],
)
def test_class_names_that_cannot_be_written_are_refused(scenes, names, said):
    (scenes / "classes.json").write_text(names)
    with pytest.raises(UserError, match=rf"classes\.json: {said}"):
        source("scenes").segmentation_facts()


def test_a_pipe_among_the_images_is_left_out_and_not_waited_for(pets, tmp_path):
    os.mkfifo(pets / "train" / "cat" / "pipe.png")
    assert source("pets").unreadable(tmp_path / "cache") == {"train/cat/pipe.png": "not a file."}


def test_255_is_no_label_beyond_the_classes(scenes, tmp_path):
    Image.new("L", (8, 8), 255).save(scenes / "annotations" / "training" / "02.png")
    assert source("scenes").segmentation_root(DataConfig(), {}, tmp_path / "cache") == scenes


def test_a_file_that_is_damaged_or_repaired_at_its_length_is_read_again(pets, tmp_path):
    path = pets / "train" / "cat" / "07.png"
    intact = path.read_bytes()
    for lost, content in enumerate((intact, bytes(len(intact)), intact)):
        path.write_bytes(content)
        os.utime(path, ns=(0, lost))
        assert len(source("pets").unreadable(tmp_path / "cache")) == lost % 2
    assert source("pets").facts(DataConfig()) == source("pets").facts(DataConfig())


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), OSError(errno.EMFILE, "Too many open files"),
                                   MemoryError()])  # fmt: skip
def test_trouble_of_the_disk_or_the_machine_ends_the_run_and_leaves_no_image_out(pets, tmp_path, monkeypatch, error):
    original = Image.open

    def opened(path):
        if path.name == "07.png":
            raise error
        return original(path)

    monkeypatch.setattr(Image, "open", opened)
    with pytest.raises(UserError, match=r"07\.png: cannot be read \("):
        source("pets").unreadable(tmp_path / "cache")
    monkeypatch.undo()
    monkeypatch.setenv(DATA_ROOT, str(tmp_path))
    assert source("pets").unreadable(tmp_path / "cache") == {}


def test_many_left_out_images_are_told_by_a_fingerprint_of_their_list(pets, tmp_path):
    flags = []
    for last in (11, 12):
        for index in (*range(10), last):
            (pets / "train" / "cat" / f"{index:02d}.png").write_bytes(b"torn")
        flags += source("pets").flags(("train",), tmp_path / str(last))
        Image.fromarray(PIXELS).save(pets / "train" / "cat" / f"{last}.png")
    assert all("and 1 more (list " in flag for flag in flags)
    assert len(set(flags)) == 2


@pytest.mark.parametrize("name", ["a.tif", "a.tiff", "a.gif", "a.ppm"])
def test_other_types_are_read_as_pillow_reads_them(name, tmp_path):
    first = Image.fromarray(PIXELS)
    more = {} if name == "a.ppm" else {"save_all": True, "append_images": [Image.new("RGB", first.size)]}
    first.save(tmp_path / name, **more)
    assert Path(name).suffix in decoding.SUFFIXES
    with Image.open(tmp_path / name) as found:
        assert np.array_equal(np.asarray(open_image(tmp_path / name)), np.asarray(found.convert("RGB")))


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_rotated_tiff_is_rotated_once(turn, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(PIXELS).save(tmp_path / "a.tif", exif=exif)
    with Image.open(tmp_path / "a.tif") as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    picture = Picture(tmp_path / "a.tif")
    assert picture.size == expected.shape[1::-1]
    assert np.array_equal(np.asarray(picture.pixels()), expected)
