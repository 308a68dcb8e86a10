"""The page's own statistics equal Python's, on tables of every shape; numbers are written alike."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from pathlib import Path

import pytest
from chromium import browser, find_chromium

from mimbench.report.analysis import Analysis, _column_cells
from mimbench.report.cells import cell_text, difference_text
from mimbench.report.collect import Column, Grid, Row, RunRecord
from mimbench.report.page import SCRIPTS
from mimbench.report.page.data import statistics_data

PAGE = Path(__file__).parents[2] / "mimbench" / "report" / "page"
TABLES = 200
COLUMN = Column("finetune", "Fine-tune", "accuracy", "%", "0" * 12)


def random_table(number: int) -> Grid:
    """Few seeds or many, some missing, nested or not, with and without a primary comparison, equal values among them."""
    draw = random.Random(number)
    nested = {"pretraining": draw.choice([1, 2]), "evaluation": 2} if draw.random() < 0.3 else {}
    per_replicate = math.prod(nested.values())
    seeds = list(range(per_replicate * draw.choice([1, 2, 3, 5, 10, 40])))
    unit, scale = draw.choice([("%", 50.0), ("", 1e-3), ("", 3e4)])
    column = dataclasses.replace(COLUMN, unit=unit)
    records, rows = {}, []
    names = [f"row{index}" for index in range(draw.randint(2, 12))]
    for name in names:
        level, sd = scale * draw.uniform(0.5, 1), scale * draw.choice([0.0, 1e-6, 0.01, 0.2])
        runs = {}
        for seed in seeds:
            run, done = f"finetune-{name}-{seed}", draw.random() > 0.1
            result = {"metrics": {"accuracy": draw.gauss(level, sd)}} if done else None
            records[run] = RunRecord(Path(run), "done" if done else "planned", None, result, None, {}, "")
            runs[seed] = {"finetune": run}
        reference = names[0] if draw.random() < 0.8 else draw.choice(names)
        rows.append(Row(name, name, "", None, name if name == names[0] else reference, runs))
    primary = {"row": names[-1], "protocol": "finetune"} if draw.random() < 0.5 else None
    return Grid("demo", "tiny", "", "", "", names[0], names[0], primary, seeds, [column], rows, records, nested)


def computed(grid: Grid) -> Analysis:
    return Analysis(grid, {(cell.row.name, "finetune"): cell for cell in _column_cells(grid, grid.columns[0])})


def against(grid: Grid, reference: str) -> Grid:
    rows = [dataclasses.replace(row, reference=reference) for row in grid.rows]
    return dataclasses.replace(grid, rows=rows, primary=None)


def expected(analysis: Analysis) -> dict[str, list]:
    found = {}
    for (row, _), cell in analysis.cells.items():
        s, c = cell.summary, cell.comparison
        found[row] = [
            *((s.n, s.mean, s.sd, s.low, s.high) if s else [None] * 5),
            *((c.n, c.difference, c.low, c.high, c.p, c.p_holm, c.verdict) if c else [None] * 7),
            cell_text(cell, analysis.grid) if s else None, difference_text(cell) if c else None,
        ]  # fmt: skip
    return found


FOUND = """JSON.stringify(tables.map(([report, reference]) => Object.fromEntries([...columnCells(report, report.columns[0], reference)]
  .map(([row, cell]) => { const s = cell.summary, c = cell.comparison, column = report.columns[0]; return [row, [
    ...(s ? [s.n, s.mean, s.sd, s.low, s.high] : Array(5).fill(null)),
    ...(c ? [c.n, c.difference, c.low, c.high, c.p, c.pHolm, c.verdict] : Array(7).fill(null)),
    s ? cellText(cell, column, {}, report.grid) : null, c ? differenceText(cell, column).split(", p ")[0] : null]]; }))))"""


@pytest.mark.browser
@pytest.mark.skipif(find_chromium() is None, reason="no Chromium on this machine (Debian: apt install chromium)")
def test_the_statistics_of_200_random_tables_are_pythons(tmp_path):
    grids = [random_table(number) for number in range(TABLES)]
    cases, wanted = [], []
    for number, grid in enumerate(grids):
        chosen = random.Random(number).choice([None, grid.rows[-1].name, grid.rows[0].name])
        cases.append([statistics_data(computed(grid)), chosen])
        wanted.append(expected(computed(grid if chosen is None else against(grid, chosen))))
    scripts = "\n".join((PAGE / f"{name}.js").read_text() for name in SCRIPTS if name != "main")
    page = tmp_path / "page.html"
    page.write_text(f"<!doctype html><script>{scripts}\nconst tables = {json.dumps(cases)};</script>", encoding="utf-8")
    with browser(tmp_path / "profile") as chromium:
        chromium.open(page.as_uri())
        found = json.loads(chromium.evaluate(FOUND))
    for number, (ours, pythons) in enumerate(zip(found, wanted, strict=True)):
        assert ours.keys() == pythons.keys()
        for row, values in pythons.items():
            for own, value in zip(ours[row], values, strict=True):
                same = own == pytest.approx(value, rel=1e-9, abs=0) if isinstance(value, float) else own == value
                assert same, (number, row, ours[row], values)
    verdicts = {values[11] for table in wanted for values in table.values()}
    assert {"higher", "lower", "not significant", "no test with one seed"} <= verdicts
