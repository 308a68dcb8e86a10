"""Who may import whom, from the ground up; kept by reading the imports."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Folders and top-level files of mimbench/, and slurm/, in the order in which they may import one another: only to the left
ARROW = ["errors", "compat", "store", "env", "runtime", "importing", "progress", "parts", "registry", "testing", "config",
         "protocols", "models", "data", "plan", "pretrain", "evals", "run", "launch", "report", "slurm", "cli", "__main__"]  # fmt: skip
ALLOWED = {("registry", "config"), ("launch", "slurm"), ("launch", "report")}
REPORT_MAY = {"report", "store", "protocols", "errors"}


def _imports(path: Path) -> set[str]:
    """Every `mimbench.x` a file imports at its top level, as x."""
    found = set()
    body = ast.parse(path.read_text(encoding="utf-8")).body
    for node in [*body, *(inner for block in body if isinstance(block, ast.With) for inner in block.body)]:
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            if node.module == "mimbench":
                found |= {alias.name for alias in node.names}
            elif node.module.startswith("mimbench."):
                found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("mimbench.")}
    return found


ENGINE = sorted([*(ROOT / "mimbench").rglob("*.py"), *(ROOT / "slurm").rglob("*.py")])


@pytest.mark.parametrize("path", ENGINE, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_of_the_engine_imports_only_what_lies_below_it(path):
    inside = path.relative_to(ROOT / "mimbench" if ROOT / "mimbench" in path.parents else ROOT)
    room = "slurm" if ROOT / "slurm" in path.parents else inside.parts[0].removesuffix(".py")
    if room == "__init__":
        return
    for other in _imports(path) - {room, "__version__"}:
        allowed = ARROW.index(other) < ARROW.index(room) or (room, other) in ALLOWED
        assert allowed, f"{path.relative_to(ROOT)} must not import {other}"
        assert room != "report" or other in REPORT_MAY, f"{path.relative_to(ROOT)} must not import {other}"


@pytest.mark.parametrize("path", sorted((ROOT / "registries").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_part_imports_contracts_and_models_alone(path):
    kind = path.relative_to(ROOT / "registries").parts[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("mimbench."):
            parts = node.module.split(".")
            allowed = parts[1] in {"parts", "registry", "models"} or parts[1:3] == ["registries", kind]
            assert allowed, f"{path.name} imports {node.module}"


def test_nothing_in_the_engine_names_a_shipped_part():
    names = {p.stem for p in (ROOT / "registries").rglob("*.py")} - {"__init__", "none", "random", "linear"}
    for path in ENGINE:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert node.value not in names, f"{path.relative_to(ROOT)}:{node.lineno} names '{node.value}'"


@pytest.mark.parametrize(
    "command", ["--help", "status", "status --watch", "report", "why no-run", "logs no-run", "cancel"]
)
def test_help_status_and_report_import_no_torch(command, tmp_path):
    """Carried out over records, not only asked for help."""
    import subprocess
    import sys

    from synthetic_grid import demo

    words = command.split()
    if command != "--help":
        words += ["--results", str(demo(tmp_path / "results").root)]
    code = (
        f"import sys\nfrom mimbench.cli.commands import main\ntry: main({words!r})\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("grid", ["ablations", "methods", "tokenizers"])
def test_a_plan_imports_neither_timm_nor_torchs_compiler(grid, tmp_path):
    """They take longer than all the rest of it."""
    import subprocess
    import sys

    code = f"""import sys
from mimbench.cli.commands import main
main(['plan', '{grid}', '--results', '{tmp_path}'])
assert 'torch' in sys.modules and not {{'timm', 'torchvision', 'torch._dynamo'}} & set(sys.modules)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr


def test_registries_refuse_to_be_imported_under_another_name():
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-c", "import registries"], cwd=ROOT, capture_output=True, text=True, timeout=180
    )
    assert "mimbench.registries" in done.stderr
    assert done.returncode != 0
