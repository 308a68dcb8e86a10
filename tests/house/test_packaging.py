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
KEPT = (".py", ".yaml", ".csv", ".html", ".css", ".js", ".typed", ".sh")


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
def test_the_wheel_alone_runs_the_grid_that_ships(wheel, tmp_path):
    """Unpacked beside no checkout: parts, protocols, configs and published numbers all come from the wheel."""
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
    words = ["run", "grid", "ablations", "--scale", "smoke", "--seeds", "1", "--only", "scratch"]
    code = (
        "import mimbench, mimbench.registries, sys\n"
        "from mimbench.cli.commands import main\n"
        "print(mimbench.__file__, mimbench.registries.__file__)\n"
        f"if __name__ == '__main__': raise SystemExit(main({words!r}))"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(target)}
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stderr
    first, *rest = done.stdout.splitlines()
    assert first.count(str(target)) == 2
    assert any("82.86" in line for line in rest)  # the paper's number, from the wheel
    assert (tmp_path / "results" / "reports" / "ablations.smoke" / "index.html").exists()
