"""What the README and the documentation say one can type, one can."""

from __future__ import annotations

import re
import shlex
import subprocess

import pytest
from conftest import ROOT

from mimbench.cli.parser import make_parser
from mimbench.config.grid import load_grid
from mimbench.plan.graph import make_plan

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {path: path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
COMMANDS = sorted({line.strip() for text in PAGES.values() for line in re.findall(r"^(mimbench [^#\n]+)", text, re.M)})
GENERATED = ("recipes.md", "results.md")  # see docs/pages.py


def test_there_are_commands_to_check():
    assert len(COMMANDS) >= 5


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_pages_is_understood(line, monkeypatch):
    monkeypatch.chdir(ROOT)
    options = make_parser().parse_args(shlex.split(line)[1:])
    if hasattr(options, "file"):  # a grid: plan it as well
        assert make_plan(load_grid(options.file, scale=options.scale, seeds=options.seeds)).runs


def test_every_file_that_is_linked_to_is_there():
    for page, text in PAGES.items():
        targets = [t for t in re.findall(r"\]\(([^)#]+)\)", text) if not t.startswith("http")]
        assert targets, page
        assert [t for t in targets if not (page.parent / t).exists() and t not in GENERATED] == [], page


def test_every_dependency_has_its_reason_in_the_readme():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [re.split(r"[<>=\[ ]", d)[0] for d in project["dependencies"]]
    assert [n for n in names if n not in TEXT.split("## Dependencies")[1]] == []


def test_make_knows_the_two_commands():
    for target in ("ablations", "test"):
        done = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
