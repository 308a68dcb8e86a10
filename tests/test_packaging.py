"""The wheel holds what the tree holds, and runs without a checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile

import pytest
from conftest import ROOT

MAPPED = {"mimbench": "mimbench", "registries": "mimbench/registries", "slurm": "mimbench/slurm", "configs": "mimbench/configs",
          "results/paper": "mimbench/paper"}  # fmt: skip
KEPT = (".py", ".yaml", ".csv", ".html", ".typed")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    for name in filter(None, tracked):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    words = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(folder),
        str(source),
    ]
    subprocess.run(words, check=True, capture_output=True, timeout=120)
    return next(folder.glob("*.whl")), source


@pytest.mark.slow
def test_the_wheel_equals_the_tree(wheel):
    built, source = wheel
    packed = {n for n in zipfile.ZipFile(built).namelist() if ".dist-info/" not in n}
    expected = set()
    for folder, package in MAPPED.items():
        for path in (source / folder).rglob("*"):
            if path.suffix in KEPT:
                expected.add(f"{package}/{path.relative_to(source / folder)}")
    assert packed == expected


@pytest.mark.slow
def test_the_wheel_alone_plans_the_grid_that_ships(wheel, tmp_path):
    built, _ = wheel
    target = tmp_path / "site"
    words = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        str(target),
        str(built),
    ]
    subprocess.run(words, check=True, capture_output=True, timeout=120)
    code = "import mimbench; print(mimbench.__file__); from mimbench.cli import main; raise SystemExit(main(['plan', 'ablations']))"
    environment = {**os.environ, "PYTHONPATH": str(target)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert str(target) in done.stdout.splitlines()[0]
    assert "pretrain" in done.stdout
