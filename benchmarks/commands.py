"""Half of `make bench`: commands that must start quickly, and commands over ten thousand runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from limits import missed, within

from mimbench.config.grid import load_grid
from mimbench.plan.graph import make_plan
from mimbench.plan.record import write_grid_record
from mimbench.store.records import write_record
from mimbench.store.results import Store

ROOT = Path(__file__).parent.parent
GRID, SEEDS = str(ROOT / "configs/ablations.yaml"), 205  # 49 runs per seed: 10,045


def start_up() -> None:
    """Seconds of a command, and of a run of its own process."""
    # the last two import torch, which takes longer than all else
    limits = {"--help": 0.6, "status": 0.6, "list protocols": 0.6, "list maskers": None, "plan ablations": None}
    for line, limit in limits.items():
        words, seconds = line.split(), []
        for _ in range(5):
            begun = time.perf_counter()
            subprocess.run([sys.executable, "-m", "mimbench.cli.commands", *words], capture_output=True, check=True)
            seconds.append(time.perf_counter() - begun)
        print(f"mimbench {line}: {min(seconds):.2f} s")
        if limit:
            within(min(seconds), limit, f"seconds of mimbench {line}")
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import mimbench.launch.worker"], capture_output=True, check=True)
    print(
        f"a cold process of a run (imports): {time.perf_counter() - begun:.2f} s; paid once per grid, by the fork server"
    )


def planning() -> None:
    """Of 10,000 runs."""
    begun = time.perf_counter()
    plan = make_plan(load_grid(GRID, seeds=SEEDS))
    print(f"planning {len(plan.runs)} runs: {time.perf_counter() - begun:.2f} s")


def ten_thousand_runs() -> None:
    """A dry submission and a status of 10,000 runs, as whole processes with their memory."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results"
        dry = ["run", "grid", GRID, "--seeds", str(SEEDS), "--dry-run", "--on", "slurm:trial"]
        print("dry submission of 10,000 runs: " + measured([*dry, "--results", str(results)]))
        plan = make_plan(load_grid(GRID, seeds=SEEDS))
        store = Store(results)
        for name, run in plan.runs.items():
            path = store.run(name).path
            path.mkdir(parents=True)
            (path / "spec.json").write_text(json.dumps(run.spec))
            for file, value in (("result", {"kind": run.kind}), ("cost", {"seconds": 1.0, "world": 1})):
                write_record(path / f"{file}.json", value)
        write_grid_record(plan, store)
        print(f"status over {len(plan.runs)} finished runs: " + measured(["status", "--results", str(results)]))


def measured(words: list[str]) -> str:
    """Seconds and peak memory of a command, which must stay under 5 s and 1 GiB."""
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "mimbench", *words], stdout=subprocess.DEVNULL)
    _, code, usage = os.wait4(process.pid, 0)
    seconds, gibibytes = time.perf_counter() - begun, usage.ru_maxrss / 2**20
    assert code == 0, words
    within(seconds, 5, f"seconds of mimbench {words[0]} with 10,000 runs")
    within(gibibytes, 1, f"GiB of mimbench {words[0]} with 10,000 runs")
    return f"{seconds:.2f} s, {gibibytes:.2f} GiB"


def reports() -> None:
    """CPU seconds of a report over 1,000 and 10,000 results: of many seeds, and of many rows."""
    sys.path.append(str(ROOT / "tests"))
    import synthetic_grid

    one = dict(synthetic_grid.ROWS)
    for what, shapes in (("seeds", {990: (33, 1), 9990: (333, 1)}), ("rows", {900: (3, 10), 9900: (3, 110)})):
        seconds = {}
        for results, (seeds, copies) in shapes.items():
            synthetic_grid.ROWS = {
                name + f"_{copy}" * bool(copy): (label + f" {copy}" * bool(copy), *more)
                for copy in range(copies) for name, (label, *more) in one.items()
            }  # fmt: skip
            with tempfile.TemporaryDirectory() as folder:
                store = synthetic_grid.rich(Store(folder), seeds)
                words = [sys.executable, "-m", "mimbench", "report", "--results", str(store.root)]
                process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
                _, code, usage = os.wait4(process.pid, 0)
                assert code == 0, words
            seconds[results] = usage.ru_utime + usage.ru_stime
            print(f"report over {results} results of many {what}: {seconds[results]:.1f} s of CPU time")
        few, many = seconds.values()
        within(many, 20, f"CPU seconds of a report over 10,000 results of many {what}")
        within(many / few, 12, f"report over ten times the results of many {what}")


if __name__ == "__main__":
    start_up()
    planning()
    ten_thousand_runs()
    reports()
    sys.exit(missed())
