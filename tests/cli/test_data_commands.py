"""`mimbench data`: fetching, checking and packing data sets."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from commands import ROOT
from PIL import Image

from mimbench.cli.commands import main
from mimbench.config.grid import load_grid
from mimbench.config.schema import DataConfig
from mimbench.data import download, packing
from mimbench.data.sources import source
from mimbench.data.sources.places import DATA_ROOT
from mimbench.errors import UserError


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv(DATA_ROOT, str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data"


@pytest.fixture
def pets(root):
    rng = np.random.default_rng(0)
    for split, count in (("train", 30), ("val", 4)):
        for name in ("cat", "dog"):
            (root / "pets" / split / name).mkdir(parents=True)
            for index in range(count):
                shape = (int(rng.integers(20, 60)), int(rng.integers(20, 60)), 3)
                Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(
                    root / "pets" / split / name / f"{index}.png"
                )
    return root / "pets"


def test_check_prints_what_a_data_set_holds_and_names_what_cannot_be_read(pets, capsys):
    assert main(["data", "check", "pets"]) == 0
    out = capsys.readouterr().out
    assert "train 60, labeled 57, val 3, test 8" in out
    assert "classes: 2: cat, dog" in out
    assert "unreadable: none" in out
    with Image.open("results/data/pets.png") as sheet:
        assert sheet.size == (640, 128)
    (pets / "val" / "cat" / "1.png").write_bytes(b"torn")
    assert main(["data", "check", "pets"]) == 1
    assert "  val/cat/1.png: not readable as an image" in capsys.readouterr().out


def test_check_tells_labels_beyond_the_classes_and_names_that_do_not_fit(root, capsys):
    for split in ("training", "validation"):
        for kind in ("images", "annotations"):
            (root / "scenes" / kind / split).mkdir(parents=True)
            for index in range(3):
                array = np.full((8, 8, 3) if kind == "images" else (8, 8), index + 1, np.uint8)
                Image.fromarray(array).save(root / "scenes" / kind / split / f"{index}.png")
    (root / "scenes" / "objectInfo150.txt").touch()
    assert main(["data", "check", "scenes"]) == 0
    assert "no label above 75 occurs, and 150 classes are named" in capsys.readouterr().out
    (root / "scenes" / "classes.json").write_text('["a", "b"]')
    assert main(["data", "check", "scenes"]) == 1
    assert "2 masks have labels above 2, the number of classes: 2.png" in capsys.readouterr().out


def test_check_tells_colored_masks(root, capsys):
    for kind in ("images", "annotations"):
        (root / "scenes" / kind / "training").mkdir(parents=True)
        for index in range(2):
            Image.new("RGB", (4, 4)).save(root / "scenes" / kind / "training" / f"{index}.png")
    (root / "scenes" / "classes.json").write_text('["a", "b"]')
    assert main(["data", "check", "scenes"]) == 1
    assert "2 masks have several channels, not one of labels: 0.png, 1.png" in capsys.readouterr().out


def test_check_reads_all_files_again_whatever_was_known(pets, capsys):
    assert main(["data", "check", "pets"]) == 0
    path = pets / "train" / "cat" / "3.png"
    intact, times = path.read_bytes(), path.stat()
    for content, code in ((bytes(len(intact)), 1), (intact, 0)):  # of one length, and the same time
        path.write_bytes(content)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert main(["data", "check", "pets"]) == code
        assert len(source("pets").unreadable(Path("results/cache"))) == code


def test_a_folder_named_by_a_dot_is_called_by_its_own_name_and_our_results_in_it_are_no_class(
    pets, monkeypatch, capsys
):
    monkeypatch.chdir(pets)
    assert main(["data", "check", "."]) == 0
    assert (pets / "results" / "data" / "pets.png").is_file()
    monkeypatch.chdir(pets / "train")  # class folders alone
    for _ in range(2):
        assert main(["data", "check", "."]) == 0
        assert "classes: 2: cat, dog" in capsys.readouterr().out
    assert load_grid(str(ROOT / "configs" / "ablations.yaml"), scale="smoke", data=".").scale.startswith("smoke-train-")


def test_images_with_masks_alone_are_told_where_they_go(root, capsys):
    (root / "scenes" / "images" / "training").mkdir(parents=True)
    for command in (["data", "pack", "scenes", "--size", "8", "--to", "x"], ["plan", "ablations", "--data", "scenes"]):
        assert main(command) == 2
        assert "scenes: images with masks, which evaluation.segmentation_data names" in capsys.readouterr().err


def test_a_packed_copy_has_the_pixels_of_the_stated_filter_and_the_same_splits(pets, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(packing, "SHARD_BYTES", 20_000)  # several shards
    (pets / "train" / "dog" / "5.png").write_bytes(b"torn")
    assert main(["data", "pack", "pets", "--size", "24", "--to", "packs/pets24"]) == 0
    printed = capsys.readouterr()
    assert "use it as data.name: packs/pets24" in printed.out
    assert "left out: train/dog/5.png" in printed.err
    packed = source("packs/pets24")
    assert packed.counts() == {"train": 59, "labeled": 56, "val": 3, "test": 8}
    assert packed.classes() == 2
    files = [p for name in ("cat", "dog") for p in sorted((pets / "val" / name).iterdir())]
    part = packed.content.test
    for index, path in enumerate(files):
        with Image.open(path) as image:
            scale = min(1, 24 / min(image.size))
            sides = (
                max(min(24, image.width), round(image.width * scale)),
                max(min(24, image.height), round(image.height * scale)),
            )
            expected = np.asarray(image.resize(sides, Image.Resampling.BICUBIC) if scale < 1 else image)
        assert np.array_equal(part.images[index], expected)
    assert part.labels.tolist() == [0] * 4 + [1] * 4
    drawn = packed.load(DataConfig(size=16, crop=(0.3, 1.0)), "train", tmp_path).augmented(
        0, [(0, i) for i in range(59)]
    )
    assert drawn.shape == (59, 3, 16, 16)
    capsys.readouterr()
    assert main(["data", "check", "./packs/pets24"]) == 0
    left_out = "1 unreadable images were left out when it was packed: train/dog/5.png"
    assert left_out in capsys.readouterr().out
    assert packed.flags(("train",), tmp_path) == [left_out]
    assert any(left_out in sentence for sentence in packed.warnings())
    packing.pack(packed, 12, tmp_path / "again")
    assert source("./again").flags(("train",), tmp_path) == [left_out]
    with pytest.raises(UserError, match="exists already"):
        packing.pack(packed, 8, tmp_path / "packs" / "pets24")


def test_a_damaged_packed_copy_is_noticed(pets, tmp_path, capsys):
    main(["data", "pack", "pets", "--size", "24", "--to", "packs/a"])
    shard = tmp_path / "packs" / "a" / "train-00000.bin"
    content = bytearray(shard.read_bytes())
    content[1000] ^= 1
    shard.write_bytes(content)
    assert main(["data", "check", "./packs/a"]) == 1
    assert "damaged: train-00000.bin" in capsys.readouterr().out
    for cache in ("results/cache", "new"):  # known from the check; found out at first use
        with pytest.raises(UserError, match=r"train-00000\.bin: not the bytes that were written"):
            source("./packs/a").load(DataConfig(size=8), "test", tmp_path / cache)
    shard.write_bytes(content[:-1])
    with pytest.raises(UserError, match=r"train-00000\.bin: missing or not \d+ bytes long"):
        source("./packs/a").counts()


class Server(BaseHTTPRequestHandler):
    content, ranges, cut = b"", [], 0

    def do_GET(self):
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        Server.ranges.append(start)
        body = self.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.cut] if self.cut else body)

    def log_message(self, *args):
        pass


@pytest.fixture
def serve(root, monkeypatch):
    """archive bytes -> `mimbench data get cifar10` gets them."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def offer(content, inside=""):
        Server.content, Server.ranges, Server.cut = content, [], 0
        url = f"http://127.0.0.1:{server.server_port}/archive"
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        monkeypatch.setitem(download.ARCHIVES, "cifar10", download.Archive(url, digest, inside))

    yield offer
    server.shutdown()
    server.server_close()


def zipped(**files):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "/"), content)
    return stream.getvalue()


def tarred(name, content=b"x", **kind):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        for key, value in kind.items():
            setattr(entry, key, value)
        archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def test_an_archive_is_fetched_checked_and_unpacked(serve, root):
    drawn = io.BytesIO()
    Image.new("RGB", (4, 4)).save(drawn, "PNG")
    names = [f"inner__{split}__{label}__0.png" for split in ("train", "test") for label in range(10)]
    serve(zipped(**dict.fromkeys(names, drawn.getvalue())), inside="inner")
    assert main(["data", "get", "cifar10"]) == 0
    assert (root / "cifar10" / "train" / "3" / "0.png").read_bytes() == drawn.getvalue()
    assert not list((root / ".downloads").iterdir())
    assert main(["data", "get", "cifar10"]) == 0  # it is there
    assert Server.ranges == [0]


def test_what_lies_there_already_must_be_the_data_set_of_its_name(root, pets, capsys):
    (root / "cifar10").mkdir()
    assert main(["data", "get", "cifar10"]) == 2
    assert "is there, and is not cifar10 (" in capsys.readouterr().err
    (root / "cifar10").rmdir()
    pets.rename(root / "cifar10")
    assert main(["data", "get", "cifar10"]) == 2
    assert "is not cifar10 (2 classes, not 10). Move it away, or put there cifar-10" in capsys.readouterr().err
    (root / "cifar10").rename(root / "ade20k")
    assert main(["data", "get", "ade20k"]) == 2
    assert "is not ade20k (" in capsys.readouterr().err
    (root / "ade20k").rename(root / "imagenet")
    assert main(["data", "get", "imagenet"]) == 0


def test_a_download_that_was_cut_off_goes_on(serve, root, capsys):
    serve(zipped(a="x" * 5000))
    Server.cut = 1000
    assert main(["data", "get", "cifar10"]) == 2
    assert "not reachable" in capsys.readouterr().err
    Server.cut = 0
    assert main(["data", "get", "cifar10"]) == 0
    assert Server.ranges == [0, 1000]
    assert len((root / "cifar10" / "a").read_text()) == 5000


def test_an_archive_with_other_bytes_is_deleted(serve, root, capsys):
    serve(zipped(a="1"))
    Server.content += b"!"
    assert main(["data", "get", "cifar10"]) == 2
    assert "sha256 is" in capsys.readouterr().err
    assert not list((root / ".downloads").iterdir())
    assert not (root / "cifar10").exists()


@pytest.mark.parametrize("content", [
    zipped(**{"..__evil": "x"}), zipped(**{"__evil": "x"}), tarred("../evil"), tarred("evil", type=tarfile.SYMTYPE, linkname="/etc"),
    b"PK no archive",
], ids=["zip, up", "zip, absolute", "tar, up", "tar, link", "none"])  # fmt: skip
def test_an_archive_that_leads_outside_is_refused(serve, root, content, capsys):
    serve(content)
    assert main(["data", "get", "cifar10"]) == 2
    assert "not unpacked" in capsys.readouterr().err
    assert not (root / "cifar10").exists()
    assert not list(root.parent.rglob("evil"))


def test_what_cannot_be_fetched_says_what_to_put_where(root, capsys):
    assert main(["data", "get", "imagenet"]) == 2
    assert "train/<wnid>/*.JPEG" in capsys.readouterr().err
    assert main(["data", "get", "cifra10"]) == 2
    assert "Did you mean 'cifar10'?" in capsys.readouterr().err


def test_without_a_root_for_data_sets_nothing_is_fetched(monkeypatch, capsys):
    monkeypatch.delenv(DATA_ROOT, raising=False)
    for name in ("imagenet", "cifar10"):
        assert main(["data", "get", name]) == 2
        assert f"set {DATA_ROOT} to the folder" in capsys.readouterr().err
