"""The shape of the house: who may import whom, no circles, no large files. Read from the source."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Folders and top-level files of mimbench/, and slurm/, in the order in which they may import one another: only to the left
ARROW = ["errors", "inert", "compat", "env", "kinds", "store", "runtime", "parts", "registry", "config", "testing",
         "protocols", "data", "models", "plan", "pretrain", "evals", "run", "launch", "report", "show", "slurm", "api", "cli",
         "__main__"]  # fmt: skip
REPORT_MAY = {"report", "store", "kinds", "protocols", "errors", "inert"}

ENGINE = sorted([*(ROOT / "mimbench").rglob("*.py"), *(ROOT / "slurm").rglob("*.py")])
PRODUCT = [*ENGINE, *(ROOT / "registries").rglob("*.py")]


def _module(path: Path) -> str:
    inside = path.relative_to(ROOT).with_suffix("")
    parts = inside.parts if inside.parts[0] == "mimbench" else ("mimbench", *inside.parts)
    return ".".join(parts).removesuffix(".__init__")


def _imports(path: Path) -> set[str]:
    """The modules of mimbench that a file imports, in functions too, but not for types alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(n)
        for b in ast.walk(tree)
        if isinstance(b, ast.If) and "TYPE_CHECKING" in ast.unparse(b.test)
        for n in b.body
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "mimbench":
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("mimbench.")}
    return found


def _room(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


@pytest.mark.parametrize("path", ENGINE, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_imports_only_rooms_before_its_own(path):
    room = _room(_module(path))
    if room == "__init__":
        return
    for other in {_room(module) for module in _imports(path)} - {room, "__version__"}:
        assert ARROW.index(other) < ARROW.index(room), f"{path.relative_to(ROOT)} must not import {other}"
        assert room != "report" or other in REPORT_MAY, f"{path.relative_to(ROOT)} must not import {other}"


def test_no_files_import_one_another_in_a_circle():
    files = {_module(path): path for path in PRODUCT}
    graph = {}
    for name, path in files.items():
        owners = [m if m in files else m.rpartition(".")[0] for m in _imports(path)]
        graph[name] = {owner for owner in owners if owner in files and owner != name}
    TopologicalSorter(graph).prepare()  # raises CycleError, with the circle


def test_files_are_few_at_the_top_and_small_everywhere():
    assert len(list((ROOT / "mimbench").glob("*.py"))) <= 12
    assert [p.name for p in PRODUCT if len(p.read_text(encoding="utf-8").splitlines()) > 400] == []


@pytest.mark.parametrize("path", sorted((ROOT / "registries").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_part_imports_contracts_and_models_alone(path):
    kind = path.relative_to(ROOT / "registries").parts[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("mimbench."):
            parts = node.module.split(".")
            allowed = parts[1] in {"parts", "registry", "models"} or parts[1:3] == ["registries", kind]
            assert allowed, f"{path.name} imports {node.module}"


def test_nothing_in_the_engine_names_a_shipped_part():
    words = {
        "__init__",
        "none",
        "random",
        "linear",
        "labels",
        "cosine",
        "palette",
        "blocks",
    }  # that mean other things too
    names = {p.stem for p in (ROOT / "registries").rglob("*.py")} - words
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


def test_registries_refuse_to_be_imported_under_another_name():
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-c", "import registries"], cwd=ROOT, capture_output=True, text=True, timeout=180
    )
    assert "mimbench.registries" in done.stderr
    assert done.returncode != 0
