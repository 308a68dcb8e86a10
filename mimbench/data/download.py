"""Fetching data sets that may be fetched: resumed where it was cut off, checked, and unpacked into the dataset root."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tarfile
import urllib.error
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mimbench.data.sources import source
from mimbench.data.sources.places import DATA_ROOT, WHERE, existing, folder_of
from mimbench.errors import UserError, unknown
from mimbench.store.files import make_folder_once

TIMEOUT, BLOCK = 30, 2**20


@dataclass(frozen=True)
class Archive:
    url: str
    digest: str  # "md5:..."; empty where nobody publishes one
    folder: str  # the folder inside that is the data set; empty: all of it


ARCHIVES = {
    "cifar10": Archive("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", "md5:c58f30108f718f92721af3b95e74349a", ""),
    "cifar100": Archive("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz", "md5:eb9058c3a382ffc7106e4002c42a8d85", ""),
    "tiny_imagenet": Archive("http://cs231n.stanford.edu/tiny-imagenet-200.zip", "md5:90528d7ca1a48142e341f4ef8d21d0de",
                             "tiny-imagenet-200"),
    "ade20k": Archive("http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
                      "md5:7328b3957e407ddae1d3cbf487f149ef", "ADEChallengeData2016"),
}  # fmt: skip


def get(name: str) -> Path:
    """The folder of the data set, fetched if it is not there."""
    if name not in WHERE:
        raise unknown("data get", "data set", name, WHERE)
    if not os.environ.get(DATA_ROOT):
        raise UserError(f"data get: set {DATA_ROOT} to the folder in which data sets are to lie, such as ~/data.")
    target = folder_of(name)
    if target.is_dir():
        check_is(name, target)
        return target
    if name not in ARCHIVES:
        raise UserError(f"data set '{name}' cannot be fetched for you: put into {target} {WHERE[name]}.")
    archive = ARCHIVES[name]
    file = target.parent / ".downloads" / archive.url.rpartition("/")[2]
    try:
        fetch(archive.url, file)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise UserError(
            f"{archive.url}: not reachable ({reason}). Where there is a network run `mimbench data get {name}` again, or "
            f"put into {target} {WHERE[name]}."
        ) from error
    check(file, archive.digest)
    make_folder_once(target, lambda folder: unpack(file, folder, archive.folder))
    file.unlink()
    return existing(name)


CLASSES = {"cifar10": 10, "cifar100": 100, "tiny_imagenet": 200}


def check_is(name: str, folder: Path) -> None:
    """Fail if what lies there cannot be read as the data set of this name."""
    found = source(name)
    try:
        if name == "ade20k":
            found.segmentation_facts()
            why = "no images" if not all(found.segmentation_counts().values()) else ""
        else:
            expected, classes = CLASSES.get(name), found.classes()
            why = f"{classes} classes, not {expected}" if expected not in (None, classes) else ""
            why = why or ("" if found.counts()["test"] else "no test images")
    except UserError as error:
        why = str(error).rstrip(".")
    if why:
        raise UserError(f"{folder}: is there, and is not {name} ({why}). Move it away, or put there {WHERE[name]}.")


def fetch(url: str, file: Path) -> None:
    """Goes on from what an earlier attempt left."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.part")
    if file.exists():
        return
    there = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={there}-"} if there else {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            goes_on = there and answer.status == 206
            total = int(answer.headers.get("Content-Length") or 0) + (there if goes_on else 0)
            print(f"{url}: {total / 1e6:.0f} MB", file=sys.stderr)
            with part.open("ab" if goes_on else "wb") as stream:
                shutil.copyfileobj(answer, stream, BLOCK)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # nothing is left to fetch
            raise
        total = there
    if total and part.stat().st_size != total:
        raise OSError(f"the connection ended after {part.stat().st_size} of {total} bytes")
    part.rename(file)


def check(file: Path, digest: str) -> None:
    """A file with other bytes is deleted, so that the next attempt begins anew."""
    kind, _, expected = digest.partition(":")
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, kind).hexdigest()
    if found != expected:
        file.unlink()
        raise UserError(f"{file}: its {kind} is {found}, not {expected}. It was deleted; run the command again.")


def unpack(file: Path, target: Path, inside: str) -> None:
    """Refuses names that lead outside, and links."""
    try:
        if zipfile.is_zipfile(file):
            _unzip(file, target)
        else:
            with tarfile.open(file) as archive:
                archive.extractall(target, filter="data")
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise UserError(f"{file}: not unpacked ({error}).") from error
    if inside:
        place = target / inside
        if not place.is_dir():
            raise UserError(f"{file}: no folder {inside} in it.")
        for path in place.iterdir():
            path.rename(target / path.name)
        place.rmdir()


def _unzip(file: Path, target: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            name = PurePosixPath(entry.filename)
            if name.is_absolute() or ".." in name.parts or "\\" in entry.filename:
                raise UserError(f"{file}: not unpacked: {entry.filename!r} leads outside of its folder.")

        archive.extractall(target)
