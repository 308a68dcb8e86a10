"""What the command line answers: to nothing, to what it does not know, to other programs; and how it speaks of runs."""

from __future__ import annotations

import json

import pytest
from commands import mimbench
from conftest import ROOT
from synthetic_grid import FINETUNE, column, demo, evaluation, finish, planned, write_grid

from mimbench.cli import remaining
from mimbench.cli.commands import main
from mimbench.cli.display import Lines
from mimbench.cli.remaining import Remaining
from mimbench.cli.titles import fitted, titles
from mimbench.launch.local import Outcome
from mimbench.plan.graph import Planned
from mimbench.report.format import flops
from mimbench.store.results import Store


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return demo(tmp_path_factory.mktemp("demo") / "results").root


def test_without_a_command_an_overview_with_examples_that_can_be_parsed_is_printed():
    from mimbench.cli.parser import make_parser

    shown = mimbench()
    assert shown.returncode == 0
    examples = [line.split("  ")[1].split() for line in shown.stdout.splitlines() if line.startswith("  mimbench ")]
    assert len(examples) == 8
    assert max(map(len, shown.stdout.splitlines())) <= 80
    for _, *words in examples:
        make_parser().parse_args(words)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["stats"], "mimbench: unknown command 'stats'. Did you mean 'status'?"),
        (["plan", "ablations", "--sacle", "tiny"], "mimbench plan: unknown option --sacle. Did you mean '--scale'?"),
        (["run", "grid", "ablations", "--sacle=tiny"], "mimbench run: unknown option --sacle. Did you mean '--scale'?"),
        (["data", "chek", "x"], "mimbench data: unknown command 'chek'. Did you mean 'check'?"),
        (["list", "protocol"], "mimbench list: unknown kind 'protocol'. Did you mean 'protocols'?"),
        (["status", "a", "b"], "mimbench status: 'b' is one word too many."),
        (["run", "grid"], "mimbench run: the following arguments are required: file."),
    ],
)
def test_an_unknown_word_is_answered_by_the_command_it_was_meant_for(words, sentence, capsys):
    with pytest.raises(SystemExit) as refused:
        main(words)
    assert refused.value.code == 2
    answer = capsys.readouterr().err
    assert answer.startswith(sentence)
    assert answer.endswith(f"See `{sentence.partition(':')[0]} --help`.\n")


def test_run_takes_a_grid_with_and_without_the_word_grid(tmp_path):
    dry = ("ablations", "--scale", "smoke", "--seeds", "1", "--dry-run", "--results", tmp_path / "none")
    short, long = mimbench("run", *dry), mimbench("run", "grid", *dry)
    assert short.returncode == 0
    assert short.stdout == long.stdout


def test_a_grid_and_a_scale_are_looked_for_in_the_working_directory_first(tmp_path, monkeypatch):
    (tmp_path / "ablations.yaml").write_text("name: own\nbase: beit\nprotocols: [knn]\n")
    (tmp_path / "tiny.yaml").write_text((ROOT / "configs" / "scales" / "smoke.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    shown = json.loads(mimbench("plan", "ablations", "--scale", "tiny", "--json").stdout)
    assert shown["grid"] == "own"
    assert shown["runs"] == 3 * 4
    assert shown["flops_left"] < 1e12  # the sizes of `smoke`


def test_a_plan_says_what_the_training_of_a_row_takes_by_row(tmp_path):
    plan = ("plan", "ablations", "--scale", "smoke", "--seeds", "1", "--protocols", "knn", "--results", tmp_path)
    training = json.loads(mimbench(*plan, "--json").stdout)["training_flops"]
    assert training["beit"]["own"] > 0 < training["beit"]["ancestors"]  # its tokenizer
    assert not training["scratch"]["own"]
    total = flops(training["beit"]["own"] + training["beit"]["ancestors"])
    assert f"FLOPs of a row and seed, with all that is trained for it: {total} (" in mimbench(*plan).stdout


def test_only_the_protocols_asked_for_are_planned_with_what_they_build_on(tmp_path):
    plan = ("plan", "ablations", "--scale", "smoke", "--seeds", "1", "--json", "--results", tmp_path)
    kinds = lambda *words: {row["kind"] for row in json.loads(mimbench(*plan, *words).stdout)["kinds"]}
    assert kinds("--protocols", "knn") == {"tokenizer", "pretrain", "features", "knn"}
    assert kinds("--protocols", "finetune") == {"tokenizer", "pretrain", "features", "linear_probe", "finetune"}
    refused = mimbench(*plan, "--protocols", "knn,attentive_probe")
    assert "--protocols: unknown protocol of the grid 'attentive_probe'" in refused.stderr


def test_protocols_of_several_calls_stand_in_one_table(tmp_path):
    from dataclasses import replace

    from mimbench.config.grid import load_grid
    from mimbench.plan.graph import make_plan
    from mimbench.plan.record import write_grid_record
    from mimbench.report.collect import read_grid

    grid, store = load_grid("ablations", scale="smoke", seeds=1), Store(tmp_path)
    columns = []
    for protocols in (("knn",), ("finetune",)):
        write_grid_record(make_plan(replace(grid, only_protocols=protocols)), store)
        found = read_grid(store, "ablations", "smoke")
        columns.append(([column.protocol for column in found.columns], found.primary is not None))
    assert columns == [(["knn"], False), (["finetune", "linear_probe", "knn"], True)]


@pytest.mark.parametrize("kind", ["recipes", "grids", "scales", "data"])
def test_list_names_what_can_be_named_with_a_sentence_on_each(kind, monkeypatch, tmp_path):
    monkeypatch.setenv("MIMBENCH_DATA", str(tmp_path))
    (tmp_path / "pets").mkdir()
    listed = {entry["name"]: entry["summary"] for entry in json.loads(mimbench("list", kind, "--json").stdout)}
    expected = {"recipes": "full/beit_base", "grids": "ablations", "scales": "smoke", "data": "pets"}
    assert expected[kind] in listed
    assert all(listed.values())


def test_status_and_list_fit_a_terminal_that_is_narrower_than_the_table(results, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "72")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    for words in (["status", "--results", str(results)], ["list", "maskers"]):
        assert main(words) == 0
        printed = capsys.readouterr().out
        assert max(map(len, printed.splitlines())) <= 72, printed
    assert "BEiT's block-wise masking" in printed


def test_status_and_report_speak_json(results):
    (status,) = json.loads(mimbench("status", "--json", "--results", results).stdout)
    assert sum(status["states"].values()) == len(status["runs"])
    assert any(run["title"] == "BEiT, seed 0: fine-tuning" for run in status["runs"])
    (report,) = json.loads(mimbench("report", "--json", "--results", results).stdout)
    line = next(line for line in report["table"] if (line["row"], line["protocol"]) == ("scratch", "finetune"))
    assert line["mean"] + 1 < line["mean"] - line["difference"]


def test_status_of_a_folder_that_is_not_there_is_an_error(tmp_path):
    for more in ([], ["--json"], ["--watch"]):
        asked = mimbench("status", "--results", tmp_path / "nowhere", *more)
        assert (asked.returncode, asked.stdout) == (2, "")
        assert "no such folder" in asked.stderr


def test_status_of_a_grid_that_was_not_run_names_those_that_were(results):
    asked = mimbench("status", "demoo", "--results", results)
    assert (asked.returncode, asked.stdout) == (2, "")
    assert "unknown grid 'demoo'" in asked.stderr
    assert "demo.tiny" in asked.stderr


def test_why_and_logs_of_a_finished_run_say_what_it_gave(tmp_path):
    store = Store(tmp_path)
    found = evaluation(
        FINETUNE, 61.5, values={"chosen": {"lr": 0.002}}, flags=["the best learning rate is the highest tried"]
    )
    run = finish(planned(store, "finetune", 0), found)
    write_grid(
        store, [{"name": "a", "label": "BEiT", "runs": {"0": {"finetune": run.name}}}], [column(FINETUNE, "FT")], [0]
    )
    (run.path / "curve.csv").write_text("step,loss\n50,2.5\n")
    why = mimbench("why", run.name, "--results", tmp_path).stdout
    for words in (
        "demo.tiny: BEiT, seed 0: fine-tuning",
        "accuracy 61.5",
        "lr 0.002",
        "took 10 s on node1",
        "flag: the best",
    ):
        assert words in why
    logs = mimbench("logs", run.name, "--results", tmp_path)
    assert (logs.returncode, "printed nothing" in logs.stdout, "50,2.5" in logs.stdout) == (0, True, True)


def test_interrupted_before_the_first_number_no_table_is_printed(tmp_path, capsys):
    from mimbench.cli.dispatch import Dispatch

    store = Store(tmp_path)
    run = planned(store, "finetune", 0)
    write_grid(store, [{"name": "a", "runs": {"0": {"finetune": run.name}}}], [column(FINETUNE, "FT")], [0])
    dispatch = Dispatch(store, ("demo", "tiny"), {}, ["run", "demo"])
    assert dispatch.finish(Outcome(interrupted=True)) == 130
    assert capsys.readouterr().out.startswith("Interrupted; finished runs are kept.")
    finish(run, evaluation(FINETUNE, 50.0))
    dispatch.finish(Outcome(interrupted=True))
    assert "50.00" in capsys.readouterr().out


def test_a_run_that_rows_share_is_named_after_the_first_and_long_names_are_cut_before_the_seed():
    rows = [{"name": name, "label": name.upper(), "runs": {"2": {"tokenizer": "tokenizer-0"}}} for name in "abc"]
    assert titles([{"rows": rows}]) == {"tokenizer-0": "A and 2 more, seed 2: tokenizer"}
    assert (
        fitted("− visual tokens − block-wise masking, seed 0: pre-training", 40)
        == "− visual tokens −…, seed 0: pre-training"
    )
    assert fitted("BEiT, seed 0: pre-training", 40) == "BEiT, seed 0: pre-training"


def test_the_time_left_follows_from_estimates_and_then_from_how_long_runs_take(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(remaining.time, "monotonic", lambda: now[0])
    left = Remaining({"a": 100.0, "b": 100.0, "c": 100.0}, processes=2)
    assert left.seconds({}) == 150.0
    left.started("a")
    now[0] = 100.0
    assert left.seconds({"a": 0.5}) == pytest.approx(2 * 250 / 2)  # twice as slow as was estimated
    left.ended("a", "done", 200.0)
    assert left.seconds({}) == pytest.approx(2 * 200 / 2)
    left.ended("b", "failed", 1.0)
    assert left.seconds({}) == pytest.approx(2 * 100)


def test_lines_name_the_row_and_the_folder_and_say_what_is_left(capsys):
    lines = Lines(2, 0, {"knn-0": "BEiT, seed 0: k-NN"}, Remaining({"knn-0": 60.0, "knn-1": 60.0}, 1))
    lines.ended(Planned("knn-0", {"kind": "knn", "seed": 0}), "done", 60.0)
    assert "done    BEiT, seed 0: k-NN [knn-0] (60 s)   1/2 runs, about 60 s left" in capsys.readouterr().err
