"""A third party's part: by dotted path, by entry point, and with its own error when it cannot be imported."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from mimbench.config.parts import resolve
from mimbench.errors import UserError
from mimbench.registry import build
from mimbench.store.files import canonical

PART = """
import torch
from mimbench.registry import MASKERS

@MASKERS.register_module("checkers")
class Checkers:
    "Every other patch."
    version = 3
    constant_count = True
    def __init__(self, first: int = 0) -> None:
        self.first = first
    def __call__(self, batch, grid, rng):
        rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
        return ((rows + columns + self.first) % 2 == 0).flatten().expand(batch, -1).clone()
"""


@pytest.fixture
def third_party(tmp_path, monkeypatch):
    (tmp_path / "their_masks.py").write_text(PART)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("their_masks", None)
    from mimbench.registry import MASKERS

    MASKERS.module_dict.pop("checkers", None)


def test_a_part_is_found_by_its_dotted_path_and_passes_the_contract(third_party):
    from mimbench.testing import check_masker

    spec = resolve("masker", {"type": "their_masks.Checkers", "first": 1}, "here")
    assert (spec["version"], spec["first"]) == (3, 1)
    check_masker(build("masker", spec))


def test_a_default_and_the_same_number_written_out_are_one_key(third_party):
    (third_party / "their_masks.py").write_text(PART.replace("first: int = 0", "first: float = 1"))
    written = resolve("masker", {"type": "their_masks.Checkers", "first": 1}, "here")
    assert canonical(resolve("masker", "their_masks.Checkers", "here")) == canonical(written)


def test_a_third_party_part_enters_the_key_by_its_source(third_party):
    before = resolve("masker", "their_masks.Checkers", "here")
    assert before["origin"].startswith("source:")
    script = (
        "from mimbench.config.parts import resolve; print(resolve('masker', 'their_masks.Checkers', 'x')['origin'])"
    )
    (third_party / "their_masks.py").write_text(PART + "\n# changed\n")
    environment = {**os.environ, "PYTHONPATH": str(third_party)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=180)
    assert done.stdout.strip() not in ("", before["origin"]), done.stderr


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("their_masks.Chekers", "Did you mean 'Checkers'"),
        ("their_mask.Checkers", "cannot import"),
        ("os.path", "no class"),
    ],
)
def test_a_wrong_path_is_answered(third_party, path, words):
    with pytest.raises(UserError, match=words):
        resolve("masker", path, "here")


def _installed(tmp_path, module):
    """A distribution as pip leaves it, with an entry point into `module`."""
    info = tmp_path / "third_party-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[mimbench.parts]\nmasks = {module}\n")
    return {**os.environ, "PYTHONPATH": str(tmp_path)}


def _list(environment):
    words = [sys.executable, "-m", "mimbench.cli.commands", "list", "maskers"]
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=180)


def test_an_installed_part_is_listed_beside_ours(tmp_path):
    (tmp_path / "their_masks.py").write_text(PART)
    done = _list(_installed(tmp_path, "their_masks"))
    assert "checkers(first: int = 0)" in done.stdout
    assert "Every other patch." in done.stdout
    assert "blockwise(" in done.stdout


def test_a_plug_in_that_fails_to_import_stops_everything_with_its_own_error(tmp_path):
    (tmp_path / "broken_masks.py").write_text(textwrap.dedent("raise RuntimeError('out of cheese')"))
    done = _list(_installed(tmp_path, "broken_masks"))
    assert done.returncode == 2
    assert "out of cheese" in done.stderr
    assert "third-party" in done.stderr
