"""Whole grids through the command line at scale `smoke`: real processes, real mmsegmentation, real interruptions."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import commands
import pytest
from conftest import ROOT

from mimbench.store.files import read_json
from mimbench.store.results import Store

FEW = ("--only", "no-tokens", "--only", "scratch")
EVALUATIONS = 6  # runs of a row: five protocols, and the features that two of them read
ELSEWHERE = {"beit_paper", "released"}  # need ImageNet or weights to be downloaded
GRIDS = sorted({path.stem for path in (ROOT / "configs").glob("*.yaml")} - ELSEWHERE)
SHORT = str(ROOT / "tests" / "short_grid.yaml")  # one protocol


def arguments(results, *words, grid="configs/ablations.yaml"):
    return ("run", "grid", str(ROOT / grid), "--scale", "smoke", "--results", str(results), *words)


def command(results, *words, **more):
    return [sys.executable, "-m", "mimbench", *arguments(results, *words, **more)]


def mimbench(results, *words, **more):
    return subprocess.run(command(results, *words, **more), cwd=ROOT, capture_output=True, text=True, timeout=600)


def attempts(results):
    return sum(1 for _ in (results / "runs").glob("*/attempts/*.json"))


def table(results):
    return {p.name: p.read_bytes() for p in (results / "reports" / "ablations.smoke").glob("table.*")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two rows, one seed, not interrupted."""
    results = tmp_path_factory.mktemp("smoke") / "results"
    return results, mimbench(results, "--seeds", "1", "--on", "local:2", *FEW)


@pytest.fixture
def results(cache, tmp_path):
    """A results folder with nothing but the rendered images."""
    return commands.new_results(tmp_path / "results", cache)


@pytest.mark.slow
def test_a_grid_runs_from_nothing_to_its_table(finished):
    results, done = finished
    assert done.returncode == 0, done.stderr
    assert len(list((results / "runs").iterdir())) == 1 + 2 * EVALUATIONS
    assert set(table(results)) == {"table.md", "table.csv", "table.tex"}
    assert (results / "reports" / "ablations.smoke" / "index.html").stat().st_size > 10_000
    assert "mean nothing" in (results / "reports" / "ablations.smoke" / "table.md").read_text()
    assert done.stdout.strip().splitlines()[-1].endswith("--seeds 3")
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr


@pytest.mark.slow
def test_a_second_call_does_nothing_and_says_so(finished):
    results, _ = finished
    before, bytes_before = attempts(results), table(results)
    again = mimbench(results, "--seeds", "1", *FEW)
    assert again.returncode == 0
    assert "nothing to compute" in again.stderr
    assert attempts(results) == before
    assert table(results) == bytes_before


@pytest.mark.slow
def test_rows_of_every_sort_run_from_tokenizer_to_table(results):
    """Of the methods, at equal FLOPs: a tokenizer that learns from a teacher, dropped patches, and another architecture."""
    rows = ("random", "mae", "simmim-swin", "beit2")
    words = [word for row in rows for word in ("--only", row)]
    done = mimbench(results, "--seeds", "1", "--on", "local:2", *words, grid="configs/methods.yaml")
    assert done.returncode == 0, done.stderr
    trained = 3 + 2  # BEiT-2's teacher and tokenizer
    assert len(list((results / "runs").glob("*/result.json"))) == trained + len(rows) * EVALUATIONS
    assert "Warning" not in done.stderr


@pytest.mark.slow
def test_adding_a_row_computes_only_that_row(finished):
    results, _ = finished
    before = attempts(results)
    more = mimbench(results, "--seeds", "1", "--only", "no-tokens-no-blockwise")
    assert more.returncode == 0, more.stderr
    assert attempts(results) == before + 1 + EVALUATIONS
    names = [r["name"] for r in read_json(results / "grids" / "ablations.smoke.json")["rows"] if r["runs"]]
    assert names == ["no-tokens", "no-tokens-no-blockwise", "scratch"]


@pytest.mark.slow
def test_interrupting_killing_and_rerunning_gives_the_same_results(finished, results):
    words = ("--seeds", "1", "--on", "local:2", "--checkpoint-seconds", "0", *FEW)
    for kind in (signal.SIGINT, signal.SIGKILL, signal.SIGINT):
        process = commands.mimbench_process(*arguments(results, *words))
        deadline, before = time.monotonic() + 180, attempts(results) if (results / "runs").exists() else 0
        while time.monotonic() < deadline and attempts(results) <= before:
            time.sleep(0.05)
        time.sleep(0.3)
        process.send_signal(kind)
        output, errors = process.communicate(timeout=180)
        if kind == signal.SIGINT:
            assert process.returncode == 130, errors
            assert "To resume" in output
    done = mimbench(results, *words)
    assert done.returncode == 0, done.stderr
    # the clean folder may have more rows by now: compare the rows both have
    ours, theirs = (_rows(folder) for folder in (results, finished[0]))
    assert ours
    assert all(theirs[key] == value for key, value in ours.items())


def _rows(results):
    rows = {}
    for folder in Store(results).all_runs():
        if folder.done():
            result = folder.result()
            rows[folder.name] = (result["metrics"], result["values"], result.get("weights_sha256"))
    return rows


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.5, 2.5, 4.0, 5.5])
def test_ctrl_c_in_the_first_seconds_exits_cleanly(results, seconds):
    """As from a terminal: the signal reaches the whole group, including the fork server while it imports."""
    words = command(results, "--only", "pixels", "--set", "schedule.steps=100000", grid=SHORT)
    process = subprocess.Popen(
        words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background inherit it ignored
    )  # fmt: skip
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=180)
    assert process.returncode in (130, -signal.SIGINT), errors  # the latter before Python itself is up
    assert "Traceback" not in errors or process.returncode < 0


@pytest.mark.slow
def test_two_calls_at_the_same_time_execute_each_run_once(results):
    words = arguments(results, "--on", "local:1", grid=SHORT)
    both = [commands.mimbench_process(*words) for _ in range(2)]
    for process in both:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    for folder in Store(results).all_runs():
        assert len(list((folder.path / "attempts").iterdir())) == 1, folder.name


@pytest.mark.slow
def test_a_failed_run_is_reported_and_blocks_no_other_row(results):
    words = ("--only", "pixels", "--only", "scratch", "--set", "schedule.lr=1e30", "--set", "schedule.clip=null")
    done = mimbench(results, *words, grid=SHORT)
    assert done.returncode == 1
    assert "Diverged: the loss became" in done.stderr
    assert "skipped, a parent run failed" in done.stderr
    states = {f.kind: f.state() for f in Store(results).all_runs()}
    assert states["pretrain"] == "failed"
    assert sum(f.done() for f in Store(results).all_runs()) == 2  # of the row from scratch
    status = subprocess.run([sys.executable, "-m", "mimbench.cli.commands", "status", "--results", str(results)], cwd=ROOT,
                            capture_output=True, text=True, timeout=180)  # fmt: skip
    assert "failed: pretrain-" in status.stdout
    ask = lambda *words: subprocess.run([sys.executable, "-m", "mimbench.cli.commands", *words, "--results", str(results)], cwd=ROOT,
                                        capture_output=True, text=True, timeout=120)  # fmt: skip
    blocked = next(f for f in Store(results).all_runs() if f.kind == "knn" and not f.done())
    assert "the loss became" in ask("why", blocked.name).stdout
    assert "the loss became" in ask("logs", "pretrain").stdout
    before = attempts(results)
    again = ask("retry", "--failed", "--on", "local:2")  # needs no grid file, and fails as before
    assert again.returncode == 1
    assert attempts(results) == before + 1


@pytest.mark.slow
def test_a_killed_process_is_reported_as_failed(results):
    words = ("--only", "pixels", "--set", "schedule.steps=100000", "--on", "local:1")
    process = commands.mimbench_process(*arguments(results, *words, grid=SHORT))
    deadline, owner = time.monotonic() + 180, None
    while time.monotonic() < deadline and not owner:
        time.sleep(0.2)
        running = [f for f in Store(results).all_runs() if f.state() == "running"]
        owner = running[0].owner() if running else None
    os.kill(owner["pid"], signal.SIGKILL)
    _, errors = process.communicate(timeout=180)
    assert process.returncode == 1
    assert "SIGKILL" in errors


@pytest.mark.slow
def test_a_terminal_shows_progress_and_rate_of_every_run(results):
    import pty

    words = command(results, "--only", "pixels", "--set", "schedule.steps=500", grid=SHORT)
    screen, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=terminal, env=environment)
    os.close(terminal)
    shown = b""
    while True:
        try:
            data = os.read(screen, 65536)
        except OSError:
            break
        if not data:
            break
        shown += data
    assert process.wait(60) == 0
    assert re.search(rb"pretrain-[0-9a-f]{12}", shown)
    assert re.search(rb"\d+/500 steps, \d+\.\d/s, \d+ s left", shown)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--set", "masker.min_blok=3"), "Did you mean 'min_block'"),
        (("--only", "bait"), "Did you mean 'beit'"),
        (("--on", "slrum"), "--on slrum"),
        (("--seeds", "0"), "--seeds"),
        (("--scale", "tinny"), "Did you mean 'tiny'"),
    ],
)
def test_a_typo_is_refused_before_any_compute_with_exit_code_2(tmp_path, words, message):
    done = commands.mimbench(*arguments(tmp_path / "results", *words))
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "results").exists()


def test_a_dry_run_prints_the_plan_and_writes_nothing(tmp_path):
    done = commands.mimbench(*arguments(tmp_path / "results", "--dry-run"))
    assert done.returncode == 0
    assert re.search(r"^tokenizer +3 +3 +0", done.stdout, re.M)  # three seeds, each shared by four rows
    assert re.search(r"^pretrain +18 ", done.stdout, re.M)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("kind", ["tokenizers", "maskers", "losses", "decoders", "protocols"])
def test_list_names_every_part(kind):
    done = commands.mimbench("list", kind)
    assert done.returncode == 0, done.stderr
    folder = ROOT / ("mimbench/protocols" if kind == "protocols" else f"registries/{kind}")
    for path in folder.iterdir():
        if path.suffix in (".py", ".yaml") and path.stem != "__init__":
            assert re.search(rf"^{path.stem}\b", done.stdout, re.M)


@pytest.mark.parametrize("grid", GRIDS)
def test_every_grid_that_ships_can_be_planned_at_smoke(tmp_path, grid):
    done = commands.mimbench("plan", grid, "--scale", "smoke", "--results", tmp_path / "none")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("grid", GRIDS)
def test_every_grid_that_ships_can_be_planned_and_again_without_timm_or_torchs_compiler(tmp_path, grid):
    """Importing those takes longer than all the rest of a plan; they are for counting FLOPs, which are kept."""
    done = commands.mimbench("plan", grid, "--results", tmp_path)
    assert done.returncode == 0, done.stderr
    code = f"""import sys
from mimbench.cli.commands import main
main(['plan', '{grid}', '--results', '{tmp_path}'])
assert 'torch' in sys.modules and not {{'timm', 'torchvision', 'torch._dynamo'}} & set(sys.modules)"""
    again = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=180)
    assert again.returncode == 0, again.stderr
