"""Published numbers: found by any of their columns, shown in a column of their own. Published tables follow from their records."""

import csv
import json
import re
import shlex

import pytest
from commands import ROOT
from synthetic_grid import FINETUNE, column, evaluation, finish, planned, write_grid

from mimbench.cli.parser import make_parser
from mimbench.cli.protocols import protocol_names
from mimbench.config.grid import load_grid
from mimbench.errors import UserError
from mimbench.report.analysis import analyze
from mimbench.report.markdown import markdown
from mimbench.report.published import cost_claims, lookup, paper_column, published_rows, was_read_there
from mimbench.report.statistics import compare, judge, summarize
from mimbench.report.table import tabulate
from mimbench.store.files import read_json
from mimbench.store.results import Store

ARCHIVED = sorted(path.parent for path in (ROOT / "results" / "published").glob("*/*/grid.json"))


@pytest.mark.parametrize("copy", ARCHIVED, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_the_numbers_of_an_archived_table_follow_from_its_seeds_and_records(copy):
    grid = read_json(copy / "grid.json")
    runs = {run["run"]: run for run in map(json.loads, (copy / "records.jsonl").read_text().splitlines())}
    reference = {row["name"]: row["reference"] for row in grid["rows"]}
    with (copy / "table.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert lines
    for protocol in {line["protocol"] for line in lines}:
        of_column = {line["row"]: line for line in lines if line["protocol"] == protocol}
        values = {
            row: {seed: float(line[f"seed_{seed}"]) for seed in grid["seeds"] if line[f"seed_{seed}"]}
            for row, line in of_column.items()
        }
        compared = {row for row in of_column if reference[row] != row}
        primary = (grid["primary"] or {}).get("row") if (grid["primary"] or {}).get("protocol") == protocol else None
        judged = judge(
            {row: compare(values[row], values[reference[row]]) for row in compared}, primary, len(compared - {primary})
        )
        for row, line in of_column.items():
            for seed, value in values[row].items():
                assert runs[line[f"run_{seed}"]]["result"]["metrics"][line["metric"]] == value
            summary, comparison = summarize(list(values[row].values())), judged.get(row)
            computed = {"n": summary.n, "mean": summary.mean, "sd": summary.sd, "ci_low": summary.low,
                        "ci_high": summary.high}  # fmt: skip
            if comparison:
                computed |= {"n_pairs": comparison.n, "difference": comparison.difference, "p": comparison.p,
                             "difference_low": comparison.low, "difference_high": comparison.high,
                             "p_holm": comparison.p_holm}  # fmt: skip
                assert line["verdict"].replace("not told apart", "not significant") == comparison.verdict
            for name, number in computed.items():
                assert line[name] == ("" if number is None else f"{number:.7g}"), (row, protocol, name)


@pytest.mark.parametrize(
    "copy", sorted((ROOT / "results" / "published").glob("*/grid.json")), ids=lambda path: path.parent.name
)
def test_the_command_to_reproduce_a_published_table_plans_its_rows_seeds_and_protocols(copy):
    said = re.search(r"To reproduce them: `mimbench (.*)`", (copy.parent / "README.md").read_text())[1]
    options = make_parser().parse_args(shlex.split(said))
    grid = load_grid(options.file, scale=options.scale, seeds=options.seeds, only=tuple(options.only))
    record = read_json(copy)
    runs = [row["runs"] for row in record["rows"] if row["runs"]]
    assert list(grid.chosen) == [row["name"] for row in record["rows"] if row["runs"]]
    assert set(map(str, grid.seeds)) == set(runs[0])
    columns = {column["protocol"] for column in record["columns"]}  # those that the images of that table allow
    assert set(protocol_names(options.protocols) or grid.protocols) & columns == columns & set(runs[0]["0"])


def test_every_published_number_has_a_source_and_is_marked_where_it_was_not_read_there():
    rows = published_rows()
    assert len(rows) == 387
    for row in rows:
        assert row["source"]
        assert row["table"]
        assert float(row["value"]) >= 0
        doubtful = any(word in row["notes"] for word in ("memory", "unverified", "second-hand", "derived"))
        assert was_read_there(row) is not doubtful, row
    assert sum(not was_read_there(row) for row in rows) == 16


def test_a_number_that_was_not_read_in_its_source_stands_beside_no_row():
    with pytest.raises(UserError, match="no published number has 'MVP'"):
        lookup({"method": "MVP"}, "here")


def test_every_claim_about_cost_has_a_citation():
    assert len(cost_claims()) > 4
    assert all(claim["source"] and claim["place"] and was_read_there(claim) for claim in cost_claims())


def test_an_ablation_row_is_found_by_its_name():
    found = lookup({"method": "BEiT ablation: full (300 ep)"}, "grid.yaml: rows.0.paper")
    assert {protocol: number["value"] for protocol, number in found.items()} == {
        "finetune": "82.86", "segmentation": "44.65"}  # fmt: skip


def test_a_list_allows_any_of_its_values():
    found = lookup(
        {"method": "MAE", "backbone": "ViT-B/16", "source": "I-JEPA paper arXiv:2301.08243", "pretrain_epochs": 1600,
         "eval": ["linear_probe", "knn"]}, "here")  # fmt: skip
    assert found["linear_probe"]["value"] == "68.0"


@pytest.mark.parametrize(
    ("selection", "words"),
    [
        ({"method": "BEiT ablation: full (300 epochs)"}, r"paper.method: .* Did you mean 'BEiT ablation: full \("),
        ({"methods": "BEiT"}, r"paper.methods: unknown column 'methods'. Did you mean 'method'"),
        ({"method": "BEiT"}, r"published numbers match for finetune; .*backbone: 'ViT-B/16@224'"),
        ({"method": "BEiT", "masker": "random"}, r"no published number matches .*Near it"),
    ],
)
def test_a_selection_with_no_or_several_matches_lists_the_candidates(selection, words):
    with pytest.raises(UserError, match=words):
        lookup(selection, "grid.yaml: rows.0.paper")


def test_the_papers_numbers_are_in_a_column_of_their_own_with_their_source(tmp_path):
    store = Store(tmp_path)
    rows = []
    for name, paper in (("beit", {"method": "BEiT ablation: full (300 ep)"}), ("other", None),
                        ("scratch", {"method": "DeiT scratch", "backbone": "ViT-B/16@224"})):  # fmt: skip
        runs = {}
        for seed in (0, 1):
            run = finish(planned(store, "finetune", name, seed), evaluation(FINETUNE, 50.0 + seed * len(name)))
            runs[str(seed)] = {"finetune": run.name}
        rows.append({"name": name, "label": name, "description": "", "paper": paper, "runs": runs})
    segmentation = {"name": "segmentation", "version": 1, "settings": {}}
    write_grid(store, rows, [column(FINETUNE, "Fine-tune"), column(segmentation, "Segmentation", "miou")], [0, 1])
    analysis = analyze(store, "demo", "tiny")
    paper = paper_column(analysis.grid)
    assert paper.heading == "paper (ViT-B/16, ImageNet-1K): FT / ADE20K"
    assert paper.cells == {"beit": "82.86 / 44.65 [1]", "other": "–", "scratch": "81.8 / – [2]"}
    assert paper.sources == [
        "BEiT paper arXiv:2106.08254v2, Table 4; segmentation head SETR-PUP",
        "BEiT paper arXiv:2106.08254v2, Table 1; ViT-B/16@224, pre-training data: none",
    ]
    table = tabulate(analysis)
    assert table.whole()[0][-1] == paper.heading
    assert "enter no mean and no test" in markdown(table)
