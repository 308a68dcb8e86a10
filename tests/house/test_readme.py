"""What the README says one can type, one can."""

from __future__ import annotations

import re
import shlex
import subprocess

import pytest
import yaml
from conftest import ROOT

from mimbench.cli.parser import make_parser
from mimbench.config.grid import load_grid
from mimbench.plan.graph import make_plan

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^(mimbench [^#\n]+)", TEXT, re.M)


def test_there_are_commands_to_check():
    assert len(COMMANDS) >= 5


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_readme_is_understood(line, monkeypatch):
    monkeypatch.chdir(ROOT)
    options = make_parser().parse_args(shlex.split(line)[1:])
    if hasattr(options, "file"):  # a grid: plan it as well
        assert make_plan(load_grid(options.file, scale=options.scale, seeds=options.seeds)).runs


def test_the_grid_of_the_readme_can_be_planned(tmp_path):
    (block,) = [b for b in re.findall(r"```yaml\n(.*?)```", TEXT, re.S) if "axes" in b]
    path = tmp_path / "mine.yaml"
    path.write_text(block)
    assert yaml.safe_load(block)["name"] == "mine"
    assert len(make_plan(load_grid(str(path))).grid.rows) == 6


def test_every_file_the_readme_links_to_is_there():
    links = [t for t in re.findall(r"\]\(([^)#]+)\)", TEXT) if not t.startswith("http")]
    assert links
    assert all((ROOT / target).exists() for target in links)


def test_every_dependency_has_its_reason_in_the_readme():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [re.split(r"[<>=\[ ]", d)[0] for d in project["dependencies"]]
    assert [n for n in names if n not in TEXT.split("## Dependencies")[1]] == []


def test_make_knows_the_two_commands():
    for target in ("ablations", "test"):
        done = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
