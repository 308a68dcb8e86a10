"""What is rendered into the cache is read as it was made."""

from __future__ import annotations

import multiprocessing

import pytest

from mimbench.store.cached import SUMS, cached_folder

CONTENT = bytes(range(256))


def fill(folder):
    for name in ("labels", "images"):
        (folder / name).write_bytes(CONTENT)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["labels", SUMS])
@pytest.mark.parametrize("damage", [flip, lambda path: path.unlink(), lambda path: path.write_bytes(b"")])
def test_a_damaged_file_is_made_again(tmp_path, capsys, name, damage):
    folder = cached_folder(tmp_path / "data", fill)
    damage(folder / name)
    assert cached_folder(folder, fill) == folder
    assert (folder / "labels").read_bytes() == CONTENT
    assert "made again" in capsys.readouterr().err
    cached_folder(folder, fill)
    assert not capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"data", ".data.lock"}


def test_only_the_files_that_are_read_are_checked(tmp_path, capsys):
    folder = cached_folder(tmp_path / "data", fill)
    flip(folder / "images")
    cached_folder(folder, fill, ["labels"])
    assert not capsys.readouterr().err
    cached_folder(folder, fill, ["images"])
    assert "images is damaged" in capsys.readouterr().err


def test_a_folder_of_an_earlier_version_without_sums_is_made_again(tmp_path):
    (tmp_path / "data").mkdir()
    assert (cached_folder(tmp_path / "data", fill) / "labels").read_bytes() == CONTENT


def test_several_processes_that_find_the_same_damage_all_read_what_was_made(tmp_path):
    folder = cached_folder(tmp_path / "data", fill)
    flip(folder / "labels")
    with multiprocessing.get_context("fork").Pool(4) as pool:
        pool.starmap(cached_folder, [(folder, fill)] * 8)
    assert (folder / "labels").read_bytes() == CONTENT
