"""The rounds of `mimbench search`: from finished runs to the file that a grid reads."""

from __future__ import annotations

import argparse

import pytest
import yaml
from commands import mimbench, new_results
from synthetic_grid import FACTS, finish

from mimbench.cli.search import search_grid
from mimbench.config.grid import load_grid
from mimbench.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, Diverged
from mimbench.plan.record import prepare
from mimbench.store.results import Store

GRID = """\
name: mine
base: mae
scale: smoke
seeds: 2
protocols: [knn, linear_probe]
search: {lr: [1e-3, 2e-3], seeds: [100, 101], protocols: [knn, linear_probe]}
searched: true
rows: [{name: mae}, {name: simmim, base: simmim}, {name: none, pretrain: false}]
"""


class Bench:
    """Finishes the runs of each round at once, with scores that are best at one learning rate per row."""

    def __init__(self, folder, peaks, diverges_at=float("inf")):
        self.path, self.store, self.peaks, self.diverges_at = (
            folder / "mine.yaml",
            Store(folder / "r"),
            peaks,
            diverges_at,
        )
        self.rounds = []
        self.path.write_text(GRID)

    def search(self, carry_out=None):
        options = argparse.Namespace(file=str(self.path), scale=None, on="local", results=str(self.store.root),
                                     dry_run=False, argv=["search", str(self.path)])  # fmt: skip
        return search_grid(options, carry_out or self.carry_out)

    def carry_out(self, plan):
        prepare(plan, self.store)
        names = {row: [run for runs in of_row.values() for run in runs.values()] for row, of_row in plan.rows.items()}
        rates = {row: float(row.partition("@")[2]) for row in names if names[row]}
        self.rounds.append(set(rates.values()))
        for row, lr in rates.items():
            for run in names[row]:
                if not self.store.run(run).done():
                    self._end(plan.runs[run], row, lr)
        return EXIT_OK

    def _end(self, run, row, lr):
        folder = self.store.run(run.name)
        if lr >= self.diverges_at:
            if run.kind == "pretrain":
                folder.fail(folder.begin_attempt(FACTS), Diverged("the loss is not finite"))
            return
        peak = self.peaks[row.partition("@")[0]]
        score = 90 - abs(lr / peak - peak / lr) + run.spec["seed"]
        finish(folder, {"metrics": {run.spec.get("metric", "loss"): score}, "weights_sha256": run.name})

    def found(self):
        return yaml.safe_load((self.path.parent / "searched" / "mine.smoke.yaml").read_text())


def test_the_best_of_each_row_is_written_and_the_grid_reads_it(tmp_path, monkeypatch):
    bench = Bench(tmp_path, {"mae": 5e-4, "simmim": 2e-3})
    assert bench.search() == EXIT_OK
    found = bench.found()
    assert found["values"] == [2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3]
    assert found["chosen"] == {"mae": 5e-4, "simmim": 2e-3}
    assert (found["at_edge"], found["failed"]) == ([], [])
    assert found["scores"]["mae"]["knn"][1] == pytest.approx(190.5)  # the mean over both seeds
    assert {row.name: row.recipe.schedule.lr for row in load_grid(str(bench.path)).rows if row.searched} == found[
        "chosen"
    ]


def test_an_edge_of_one_row_extends_the_values_of_all(tmp_path):
    bench = Bench(tmp_path, {"mae": 1e-3, "simmim": 4e-3})
    bench.search()
    assert bench.rounds == [{1e-3, 2e-3}, {5e-4, 1e-3, 2e-3, 4e-3}, {5e-4, 1e-3, 2e-3, 4e-3, 8e-3}]
    assert len(bench.found()["scores"]["mae"]["knn"]) == 5


def test_extensions_end_and_the_edge_is_said(tmp_path, capsys):
    bench = Bench(tmp_path, {"mae": 1.5e-3, "simmim": 1.0})
    bench.search()
    assert len(bench.rounds) == 4
    assert bench.found()["at_edge"] == ["simmim"]
    assert "simmim  0.016 (at the edge of the values tried)" in capsys.readouterr().out
    assert "Best at the edge of the values tried: simmim" in load_grid(str(bench.path)).searched


def test_a_value_that_diverges_is_said_and_not_computed_again(tmp_path, capsys):
    bench = Bench(tmp_path, {"mae": 2e-3, "simmim": 2e-3}, diverges_at=3e-3)
    bench.search()
    assert bench.found()["values"] == [1e-3, 2e-3, 4e-3]
    assert bench.found()["scores"]["mae"]["knn"][-1] is None
    assert bench.found()["at_edge"] == []  # beyond it nothing trains
    assert "simmim  0.002 (diverged at 0.004)" in capsys.readouterr().out
    bench.search()
    assert bench.rounds[-1] == {1e-3, 2e-3}


def test_a_row_of_which_every_value_diverges_is_reported(tmp_path, capsys):
    bench = Bench(tmp_path, {"mae": 2e-3, "simmim": 2e-3}, diverges_at=0)
    assert bench.search() == EXIT_FAILED
    assert bench.found()["failed"] == ["mae", "simmim"]
    assert "mae     none (diverged at 0.001, 0.002)" in capsys.readouterr().out
    assert "Diverged at every value, and keep their recipe's own: mae, simmim" in load_grid(str(bench.path)).searched


@pytest.mark.parametrize("code", [EXIT_FAILED, EXIT_INTERRUPTED])
def test_a_search_that_is_not_finished_writes_nothing(tmp_path, code):
    bench = Bench(tmp_path, {"mae": 2e-3, "simmim": 2e-3})

    def crash(plan):
        prepare(plan, bench.store)
        folder = bench.store.run(next(iter(plan.runs)))
        folder.fail(folder.begin_attempt(FACTS), MemoryError("killed"))
        return code

    assert bench.search(crash) == code
    assert not (tmp_path / "searched").exists()
    assert bench.search() == EXIT_OK  # the same command goes on
    assert bench.found()["chosen"] == {"mae": 2e-3, "simmim": 2e-3}


def test_what_was_sent_to_a_cluster_goes_on_with_the_same_command(tmp_path, capsys):
    bench = Bench(tmp_path, {"mae": 2e-3, "simmim": 2e-3})
    assert bench.search(lambda plan: prepare(plan, bench.store) or EXIT_OK) == EXIT_OK
    assert "4 of 4 tries are not done. When they are: " in capsys.readouterr().out


def test_a_grid_with_nothing_to_search_is_refused(tmp_path):
    path = tmp_path / "mine.yaml"
    search = next(line for line in GRID.splitlines() if line.startswith("search:"))
    example = "search: missing: what is to be tried, such as `search: {lr: [5e-4, 1e-3, 2e-3], protocols: [knn]}`"
    for text, message in (
        (GRID.replace(search, "").replace("searched: true", ""), example),
        (GRID.replace("{name: mae}, {name: simmim, base: simmim}, ", ""), "search: no row is left to it"),
    ):
        path.write_text(text)
        done = mimbench("search", path, "--results", tmp_path)
        assert done.returncode == 2
        assert message in done.stderr


@pytest.mark.slow
def test_a_search_from_end_to_end(tmp_path, cache):
    results = new_results(tmp_path / "results", cache)
    path = tmp_path / "mine.yaml"
    path.write_text(GRID.replace("seeds: [100, 101]", "seeds: [100]").replace("seeds: 2", "seeds: 1"))
    done = mimbench("search", path, "--results", results)
    assert done.returncode == 0, done.stderr
    assert "mine-search at scale smoke" in mimbench("status", "mine-search", "--results", results).stdout
    again = mimbench("search", path, "--results", results)
    assert "nothing to compute" in again.stderr
    assert mimbench("run", "grid", path, "--results", results).returncode == 0
    for form in ("table.md", "index.html"):
        text = (results / "reports/mine.smoke" / form).read_text()
        assert "Learning rates were searched: " in text
        assert "at scale smoke on unreported seeds (100)" in text
