"""Published numbers: found by any of their columns, never guessed, shown in a column of their own."""

import json

import pytest
from conftest import ROOT
from synthetic_grid import FINETUNE, column, evaluation, finish, planned, write_grid

from mimbench.errors import UserError
from mimbench.report.analysis import analyse
from mimbench.report.costs import costs_csv
from mimbench.report.published import lookup, paper_column, published_rows
from mimbench.report.tables import latex, markdown, text_rows, tidy_csv
from mimbench.store.files import read_json, write_json
from mimbench.store.results import Store

PUBLISHED = sorted((ROOT / "results" / "published").iterdir())


@pytest.mark.parametrize("record", ["as it is", "from before rows named the row that they are compared with"])
@pytest.mark.parametrize("copy", PUBLISHED, ids=lambda path: path.name)
def test_the_published_copy_of_a_grid_still_gives_its_tables_byte_for_byte(tmp_path, copy, record):
    (name, scale), store = copy.name.split("."), Store(tmp_path / "results")
    for line in (copy / "records.jsonl").read_text().splitlines():
        run = json.loads(line)
        folder = store.run(run["run"]).path
        for part in ("spec", "result", "cost"):
            write_json(folder / f"{part}.json", run[part])
        for file, attempt in run["attempts"].items():
            write_json(folder / "attempts" / file, attempt)
    grid = read_json(copy / "grid.json")
    if record != "as it is":
        for row in grid["rows"]:
            del row["reference"]
    write_json(store.grid_path(name, scale), grid)
    analysis = analyse(store, name, scale)
    for file, table in {"table.md": markdown, "table.csv": tidy_csv, "table.tex": latex}.items():
        assert table(analysis) == (copy / file).read_text(), file
    assert costs_csv(analysis.grid) == (copy / "costs.csv").read_text()


def test_every_published_number_has_a_source_and_was_read():
    rows = published_rows()
    assert len(rows) > 300
    for row in rows:
        assert row["source"]
        assert row["table"]
        assert float(row["value"]) >= 0
        assert row["notes"].startswith("read in ")
        assert not any(word in row["notes"] for word in ("memory", "unverified", "second-hand", "derived"))


def test_an_ablation_row_is_found_by_its_name():
    found = lookup({"method": "BEiT ablation: full (300 ep)"}, "grid.yaml: rows.0.paper")
    assert {protocol: number.value for protocol, number in found.items()} == {
        "finetune": "82.86", "segmentation": "44.65"}  # fmt: skip


def test_a_list_allows_any_of_its_values():
    found = lookup(
        {"method": "MAE", "backbone": "ViT-B/16", "source": "I-JEPA paper arXiv:2301.08243", "pretrain_epochs": 1600,
         "eval": ["linear_probe", "knn"]}, "here")  # fmt: skip
    assert found["linear_probe"].value == "68.0"


@pytest.mark.parametrize(
    ("selection", "words"),
    [
        ({"method": "BEiT ablation: full (300 epochs)"}, r"paper.method: .* Did you mean 'BEiT ablation: full \("),
        ({"methods": "BEiT"}, r"paper.methods: unknown column 'methods'. Did you mean 'method'"),
        ({"method": "BEiT"}, r"published numbers match for finetune; .*backbone: 'ViT-B/16@224'"),
        ({"method": "BEiT", "masker": "random"}, r"no published number matches .*Near it"),
    ],
)
def test_a_selection_that_finds_none_or_several_lists_what_there_is(selection, words):
    with pytest.raises(UserError, match=words):
        lookup(selection, "grid.yaml: rows.0.paper")


def test_the_papers_numbers_stand_apart_with_their_source(tmp_path):
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
    analysis = analyse(store, "demo", "tiny")
    paper = paper_column(analysis.grid)
    assert paper.heading == "paper (ViT-B/16, ImageNet-1K): FT / ADE20K"
    assert paper.cells == {"beit": "82.86 / 44.65 [1]", "other": "", "scratch": "81.8 / – [2]"}
    assert paper.sources == [
        "BEiT paper arXiv:2106.08254v2, Table 4; segmentation head SETR-PUP",
        "BEiT paper arXiv:2106.08254v2, Table 1; ViT-B/16@224, pre-training data: none",
    ]
    assert text_rows(analysis)[0][-1] == paper.heading
    assert "enter no mean and no test" in markdown(analysis)
