"""The column that a row names before any run: tested over these rows alone, against the row's own reference."""

from __future__ import annotations

import json

import pytest
from synthetic_grid import simple

from mimbench.config.grid import load_grid
from mimbench.errors import UserError
from mimbench.report.analysis import analyze
from mimbench.report.findings import findings
from mimbench.report.markdown import markdown
from mimbench.report.page import page
from mimbench.report.promises import promises
from mimbench.report.table import tabulate
from mimbench.store.records import read_record, write_record

NUMBERS = {"random": [50.0, 51.0, 52.0, 50.5, 51.5], "good": [60.0, 61.5, 62.0, 60.0, 61.0],
           "same": [51.0, 50.0, 52.5, 50.0, 52.0], "worse": [40.0, 41.5, 42.0, 40.0, 41.0]}  # fmt: skip


def table_of(store, names):
    simple(store, NUMBERS)
    path = store.grid_path("demo", "tiny")
    record = read_record(path)
    for row in record["rows"]:
        if row["name"] in names:
            row["improves"] = "finetune"
    write_record(path, record)
    return tabulate(analyze(store, "demo", "tiny"))


def test_a_row_passes_if_it_is_significantly_better_than_its_reference(store):
    table = table_of(store, ("good", "same", "worse"))
    assert [(line[0], line[-1]) for line in promises(table)] == [
        ("GOOD", "passed"), ("SAME", "not separated"), ("WORSE", "significantly worse"),
    ]  # fmt: skip
    said = ("In the column named for it before the run, 1 of 3 rows exceeded the reference significantly (Holm-adjusted over these rows); "
            "not separated: SAME; significantly worse: WORSE.")  # fmt: skip
    assert findings(table)[0] == said
    assert said in page(table, [])
    assert "<summary>The column named before the run</summary>" in page(table, [])
    assert "The column named before the run" in markdown(table)
    without = table_of(store, ())
    assert not any("named" in text for text in [markdown(without), *findings(without)])
    assert "column named before" not in page(without, [])


def test_holms_family_is_the_rows_that_name_a_column(store):
    p, adjusted = promises(table_of(store, ("same",)))[0][4:6]
    assert p == adjusted  # alone, whatever else the table compares


@pytest.mark.parametrize(
    ("row", "message"),
    [({"improves": "finetun"}, "rows.1: improves: unknown protocol 'finetun'. Did you mean 'finetune'"),
     ({"reference": "randm"}, "reference: unknown row 'randm'. Did you mean 'random'")],
)  # fmt: skip
def test_a_row_that_names_what_is_not_there_is_refused(tmp_path, row, message):
    path = tmp_path / "grid.yaml"
    rows = [{"name": "random", "pretrain": False}, {"name": "mae", "base": "mae", **row}]
    path.write_text(json.dumps({"base": "beit", "protocols": ["finetune"], "rows": rows}))
    with pytest.raises(UserError) as error:
        load_grid(str(path))
    assert message in str(error.value)
