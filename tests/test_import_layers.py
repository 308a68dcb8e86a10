"""Who may import whom, from the ground up; kept by reading the imports."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = [
    {
        "errors",
        "files",
        "claim",
        "records",
        "store",
        "env",
        "compat",
        "importing",
        "coerce",
        "stop",
        "progress",
        "wording",
        "__init__",
    },
    {"registry", "parts", "models", "testing"},
    {"config", "layers", "grid", "protocols", "plan", "data"},
    {"pretrain", "evals"},
    {"run"},
    {"launch", "job", "slurm", "display", "seen", "status", "control"},
    {"cli", "arguments", "running", "__main__"},
]
# encoder.py takes its config's class, and data its config: both only read what config.py declares
ALLOWED = {("models", "config")}
REPORT_MAY = {"report", "store", "records", "files", "wording", "protocols", "errors"}


def _level(top: str) -> int | None:
    return next((i for i, layer in enumerate(LAYERS) if top in layer), None)


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
    top = inside.parts[0].removesuffix(".py")
    imported = {i for i in _imports(path) if not i.startswith("__")}
    if top == "report":
        assert imported <= REPORT_MAY
        return
    mine = _level(top)
    assert mine is not None, f"{top} stands in no layer"
    for other in imported - {top}:
        level = _level(other)
        assert level is not None, f"{other} stands in no layer"
        assert level <= mine or (top, other) in ALLOWED, f"{top} must not import {other}"


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
    code = f"import sys\nfrom mimbench.cli import main\ntry: main({words!r})\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("grid", ["ablations", "methods", "tokenizers"])
def test_a_plan_imports_neither_timm_nor_torchs_compiler(grid, tmp_path):
    """They take longer than all the rest of it."""
    import subprocess
    import sys

    code = f"""import sys
from mimbench.cli import main
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
