"""One foreign or broken file under results/ is named, and hides nothing else: in the report, on stdout and in `status`."""

from __future__ import annotations

import json
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_grid import FINETUNE, column, evaluation, finish, planned, write_grid

from mimbench.cli.commands import main
from mimbench.cli.status import status
from mimbench.errors import UserError
from mimbench.report.analysis import analyse
from mimbench.report.build import build_report
from mimbench.report.notices import run_notices
from mimbench.report.terminal import terminal_table
from mimbench.store.files import read_json
from mimbench.store.results import Store

ATTEMPT = "attempts/20260102T030405.000000001-node1-7.json"
SWEEP = {"values": {"by_lr": {"0.001": {"val": 50.0}, "0.002": {"val": 51.0}}}, "flags": ["the highest rate is best"]}


def filled(root):
    """Two rows of two seeds; returns the store and the run that is broken in it."""
    store, rows = Store(root), []
    for name, values in {"beit": [60.0, 61.5], "pixels": [58.0, 60.1]}.items():
        runs = {}
        for seed, value in enumerate(values):
            run = finish(planned(store, "finetune", name, seed), evaluation(FINETUNE, value, **SWEEP))
            runs[str(seed)] = {"finetune": run.name}
        rows.append({"name": name, "label": name.upper(), "description": "", "paper": None, "runs": runs})
    write_grid(store, rows, [column(FINETUNE, "Fine-tune")], [0, 1], {"row": "pixels", "protocol": "finetune"})
    return store, planned(store, "finetune", "pixels", 1)


@pytest.fixture
def whole(tmp_path):
    return filled(tmp_path / "results")


def put(path, keys, value):
    """Replace one value in a file; without keys the whole of it."""
    record = {"": read_json(path)}
    inner, last = record, ""
    for key in keys:
        inner, last = inner[last], key
    inner[last] = value
    path.write_text(json.dumps(record[""]))


@pytest.mark.parametrize(
    ("file", "keys", "value", "wrong"),
    [
        (ATTEMPT, ["git"], "abc", 'git is "abc", not an object'),
        (ATTEMPT, ["versions"], [1], "versions is [1], not an object"),
        (ATTEMPT, [], [], "holds no JSON object"),
        ("result.json", ["flags"], 5, "flags is 5, not a list"),
        ("result.json", ["protocol"], "x", 'protocol is "x", not an object'),
        ("result.json", ["protocol", "settings", "epochs"], float("nan"), "NaN is no number"),
        ("result.json", ["data"], 3, "data is 3, not an object"),
        ("result.json", ["metric"], ["accuracy"], 'metric is ["accuracy"], not text'),
        ("result.json", ["metrics", "accuracy"], 1e308, "metrics.accuracy is no finite number"),
        ("result.json", ["metrics", "accuracy"], 10**400, "metrics.accuracy is no finite number"),
        ("result.json", ["metrics", "accuracy"], True, "metrics.accuracy is no finite number"),
        ("result.json", ["flags"], ["\ud800"], "not readable as JSON"),
        ("cost.json", ["seconds"], "abc", 'seconds is "abc", not a number'),
        ("cost.json", ["images"], 10**400, "images is 1000"),
        ("cost.json", ["peak_memory_bytes"], {}, "peak_memory_bytes is {}, not a number"),
        ("spec.json", [], 3, "holds no JSON object"),
    ],
)
def test_a_file_of_another_shape_is_named_and_takes_a_number_away_only_if_it_holds_it(whole, file, keys, value, wrong):
    store, run = whole
    put(run.path / file, keys, value)
    page = (build_report(store, "demo", "tiny") / "index.html").read_text()
    analysis = analyse(store, "demo", "tiny")
    (notice,) = run_notices(analysis.grid)
    state = "unreadable" if file == "result.json" else "done"
    assert notice.startswith(f"{run.name} ({state}): runs/{run.name}/{file}: ")
    assert wrong in notice
    assert f"{run.name} ({state})" in page
    cell, base = (analysis.cells[row, "finetune"] for row in ("pixels", "beit"))
    assert (list(cell.values), cell.unfinished) == (([0], "1 unreadable") if state == "unreadable" else ([0, 1], ""))
    assert list(base.values) == [0, 1]
    assert "demo at scale tiny" in "\n".join(status(store).lines)


def test_a_file_in_the_place_of_a_runs_folder_is_named_by_report_and_status(whole, capsys):
    store, run = whole
    shutil.rmtree(run.path)
    run.path.write_text("")
    assert main(["report", "--results", str(store.root)]) == 0
    assert "58.00 (one seed)" in capsys.readouterr().out
    (notice,) = run_notices(analyse(store, "demo", "tiny").grid)
    assert f"runs/{run.name}: is a file, not a run's folder" in notice
    assert main(["status", "--results", str(store.root)]) == 0
    assert f"{run.name}: is a file, not a run's folder" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("keys", "value", "wrong"),
    [
        (["seeds"], ["a", [1]], 'the seed "a"'),
        (["rows", 0, "runs"], {"first": {}}, "rows.0.runs.first"),
        (["rows", 0, "runs", "0", "finetune"], "../../elsewhere", "not the name of such a run"),
        (["rows", 1, "label"], 5, "rows.1.label is 5, not text"),
        (["columns", 0, "metric"], None, "columns.0.metric is null, not text"),
        (["columns", 0], "finetune", 'columns.0 is "finetune", not an object'),
        (["primary"], {"row": "pixels"}, "primary.protocol is missing, not text"),
    ],
)
def test_a_grids_record_of_another_shape_is_refused_with_the_place(whole, keys, value, wrong):
    store, _ = whole
    path = store.grid_path("demo", "tiny")
    put(path, keys, value)
    with pytest.raises(UserError) as error:
        build_report(store, "demo", "tiny")
    assert str(path) in str(error.value)
    assert wrong in str(error.value)
    assert wrong in "\n".join(status(store).lines)


def test_a_label_that_looks_like_a_formula_is_drawn_as_text(whole):
    store, _ = whole
    put(store.grid_path("demo", "tiny"), ["rows", 1, "label"], "$\\frac$")
    assert "$\\frac$" in (build_report(store, "demo", "tiny") / "index.html").read_text()


def places(value, here=()):
    """The keys to every value in a record, itself included."""
    yield here
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*here, key))


numbers = st.integers() | st.floats() | st.sampled_from([10**400, 1e308, -1e308, 5e-324])
anything = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=8) | st.sampled_from(["\ud800", "$\\frac$"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    return filled(tmp_path_factory.mktemp("untouched") / "results")


@pytest.mark.slow
@settings(max_examples=25)
@given(data=st.data())
def test_no_value_anywhere_in_a_record_gives_a_traceback(untouched, data):
    store, run = untouched
    files = [store.grid_path("demo", "tiny"), *(run.path / name for name in ("result.json", "cost.json", ATTEMPT))]
    path = data.draw(st.sampled_from(files))
    keys = data.draw(st.sampled_from(list(places(read_json(path)))))
    before = path.read_text()
    try:
        put(path, keys, data.draw(anything))
        status(store)
        build_report(store, "demo", "tiny")
        terminal_table(analyse(store, "demo", "tiny"))
    except UserError:
        return
    finally:
        path.write_text(before)
