"""From a results folder to a report: damaged and incomparable records, notices, costs, the page, figures, the copy to commit."""

import io
import json
import re
import shutil
import subprocess
import sys
import warnings
from html.parser import HTMLParser

import matplotlib as mpl
import pytest
import synthetic_grid as synthetic
from synthetic_grid import FACTS, FINETUNE, KNN, column, evaluation, finish, planned, protocol, simple, write_grid

from mimbench.errors import UserError
from mimbench.report.analysis import analyze
from mimbench.report.archive import published_copy
from mimbench.report.build import build_report
from mimbench.report.choices import chosen_text
from mimbench.report.colors import STYLE
from mimbench.report.costs import ALL_ROWS, costs
from mimbench.report.curves import damaged_curves, epochs, learning_rates, probe_layers, read_curve, thinned
from mimbench.report.figures import draw
from mimbench.report.markdown import markdown
from mimbench.report.notices import machine_notices, result_notices, run_notices
from mimbench.report.table import tabulate
from mimbench.store.files import write_atomically
from mimbench.store.records import read_record, write_record
from mimbench.store.results import Store

THREE_ROWS = {"beit": [60.0, 61.0, 62.5], "pixels": [58.0, 60.1, 60.0], "scratch": [50.0, 51.2, 52.4]}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results")


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """A grid like a real one, and its report."""
    store = synthetic.demo(tmp_path_factory.mktemp("rich") / "results")
    return store, build_report(store, "demo", "tiny")[0]


@pytest.mark.parametrize(
    "damage",
    [lambda text: text[: len(text) // 2], lambda text: text.replace("60.1", "70.1")],
    ids=["truncated", "edited"],
)
def test_a_damaged_or_edited_result_is_named_and_the_other_cells_stay(store, damage):
    simple(store, THREE_ROWS)
    run = analyze(store, "demo", "tiny").cells["pixels", "finetune"].runs[1].folder
    (run / "result.json").write_text(damage((run / "result.json").read_text()))
    analysis = analyze(store, "demo", "tiny")
    assert analysis.cells["pixels", "finetune"].summary.n == 2
    assert analysis.cells["pixels", "finetune"].unfinished == "1 unreadable"
    assert analysis.cells["beit", "finetune"].summary.n == 3
    (notice,) = run_notices(analysis.grid)
    assert notice.startswith(f"{run.name} (unreadable): runs/{run.name}/result.json: ")
    assert f"{run.name} (unreadable)" in (build_report(store, "demo", "tiny")[0] / "index.html").read_text()


@pytest.mark.parametrize("file", ["cost.json", "attempts/20260102T030405.000000001-node1-7.json"])
def test_a_damaged_file_beside_the_result_is_named_and_the_number_stays(store, file):
    simple(store, THREE_ROWS)
    run = analyze(store, "demo", "tiny").cells["pixels", "finetune"].runs[1].folder
    (run / file).write_text((run / file).read_text().replace("node1", "node2"))
    analysis = analyze(store, "demo", "tiny")
    assert analysis.cells["pixels", "finetune"].summary.n == 3
    (notice,) = run_notices(analysis.grid)
    assert notice.startswith(f"{run.name} (done): runs/{run.name}/{file}: ")


def test_a_failed_run_is_named_with_its_error(store):
    simple(store, THREE_ROWS)
    run = planned(store, "finetune", "beit", 0)
    (run.path / "result.json").unlink()
    run.fail(run.begin_attempt(FACTS), RuntimeError("the loss is not finite"))
    assert run_notices(analyze(store, "demo", "tiny").grid) == [
        f"{run.name} (failed): RuntimeError: the loss is not finite"
    ]


def test_a_damaged_grid_file_is_refused(store):
    simple(store, THREE_ROWS)
    path = store.grid_path("demo", "tiny")
    path.write_text(path.read_text().replace("BEIT", "BEST"))
    with pytest.raises(UserError, match=re.escape(str(path))):
        analyze(store, "demo", "tiny")


def test_a_grid_without_results_gives_a_report_without_figures(store):
    run = planned(store, "finetune", "beit", 0)
    write_grid(store, [{"name": "beit", "runs": {"0": {"finetune": run.name}}}], [column(FINETUNE, "Fine-tune")], [0])
    folder, _ = build_report(store, "demo", "tiny")
    assert not list(folder.glob("*.png"))
    assert "No finished runs yet" in (folder / "index.html").read_text()


def test_an_unknown_grid_is_named_with_the_nearest(store):
    simple(store, THREE_ROWS)
    with pytest.raises(UserError, match=r"unknown grid 'demos.tiny'. Did you mean 'demo.tiny'"):
        analyze(store, "demos", "tiny")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"protocol": protocol(FINETUNE, epochs=30)}, r"protocol\.settings\.epochs: 20 .* against 30"),
        ({"protocol": {**protocol(FINETUNE), "version": 2}}, r"protocol.version: 1 .* against 2"),
        ({"data": {"name": "shapes", "fingerprint": "e" * 12}}, "data.fingerprint"),
        ({"metric": "top5", "metrics": {"top5": 90.0, "accuracy": 60.0}}, 'metric: the grid asks for "accuracy"'),
    ],
)
def test_a_column_that_mixes_protocols_or_data_is_refused_with_the_field_and_the_runs(store, change, named):
    simple(store, THREE_ROWS)
    run = analyze(store, "demo", "tiny").cells["pixels", "finetune"].runs[1].folder
    write_record(run / "result.json", {**read_record(run / "result.json"), **change})
    with pytest.raises(UserError, match=named) as error:
        build_report(store, "demo", "tiny")
    assert run.name in str(error.value)
    assert "column 'finetune'" in str(error.value)


def test_results_of_another_protocol_than_the_grids_are_refused(store):
    simple(store, THREE_ROWS, columns=[{**column(FINETUNE, "Fine-tune"), "fingerprint": "0" * 12}])
    with pytest.raises(UserError, match=r'protocol.fingerprint: the grid asks for "000000000000"'):
        analyze(store, "demo", "tiny")


def test_the_total_cost_counts_shared_runs_once(reported):
    store, folder = reported
    found = {(cost.row, cost.kind): cost for cost in costs(analyze(store, "demo", "tiny").grid).itertuples()}
    assert found["beit", "tokenizer"].runs == 3
    assert found["no_blockwise", "tokenizer"].mean_seconds == 10.0
    assert ("scratch", "pretrain") not in found
    assert (found[ALL_ROWS, "tokenizer"].runs, found[ALL_ROWS, "tokenizer"].total_seconds) == (3, 30.0)
    assert found[ALL_ROWS, "all"].runs == 86
    assert found[ALL_ROWS, "all"].total_images == 3 * 100 + 15 * 120_000 + 68 * 50_000
    assert ALL_ROWS in (folder / "costs.csv").read_text()


def test_a_flag_appears_once_with_its_rows_and_seeds(reported):
    store, folder = reported
    notices = result_notices(analyze(store, "demo", "tiny").grid)
    assert notices == [
        "tokenizer of BEiT; − block-wise; + recover 100 %: not usable as a tokenizer: perplexity 3.1 of 64 codes (seed 1)",
        "Fine-tune of BEiT; Scratch: the best learning rate 0.004 is the highest tried (seeds 0, 1, 2)",
    ]
    assert all(notice in (folder / "table.md").read_text() for notice in notices)


def test_a_result_whose_parent_was_retrained_is_stale(store):
    runs = {}
    parent = finish(planned(store, "pretrain", 0), {"metrics": {"loss": 1.0}, "weights_sha256": "new"})
    for kind, base, seen in (("finetune", FINETUNE, "old"), ("knn", KNN, "new")):
        parents = {"encoder": {"run": parent.name, "weights_sha256": seen}}
        runs[kind] = finish(planned(store, kind, 0), evaluation(base, 60.0, parents=parents)).name
    row = {"name": "beit", "runs": {"0": {"pretrain": parent.name, **runs}}}
    write_grid(store, [row], [column(FINETUNE, "Fine-tune"), column(KNN, "kNN")], [0])
    (notice,) = result_notices(analyze(store, "demo", "tiny").grid)
    assert notice.startswith(f"Fine-tune of beit: stale: the parent {parent.name} was retrained")


def test_different_micro_batches_are_reported_and_job_ids_are_not(store):
    simple(store, {"beit": [60.0, 61.0]})
    for seed, micro_batch in ((0, None), (1, 2)):
        run = analyze(store, "demo", "tiny").cells["beit", "finetune"].runs[seed].folder
        facts = {**FACTS, "micro_batch": micro_batch, "slurm_job": f"17_{seed}"}
        write_record(run / "attempts" / "20260103T000000.000000001-node1-8.json", facts)
    assert machine_notices(analyze(store, "demo", "tiny").grid) == [
        "The runs differ in micro_batch: 2 (1 runs), none (1 runs)."
    ]


def test_mixed_machines_and_uncommitted_changes_appear_on_the_page_only(store):
    simple(store, THREE_ROWS)
    before = markdown(tabulate(analyze(store, "demo", "tiny")))
    assert not machine_notices(analyze(store, "demo", "tiny").grid)
    run = analyze(store, "demo", "tiny").cells["beit", "finetune"].runs[0].folder
    facts = {**FACTS, "host": "node2", "git": {"sha": "f" * 40, "dirty": True}, "versions": {"torch": "2.6.0"}}
    write_record(run / "attempts" / "20260103T000000.000000001-node2-8.json", facts)
    said = " ".join(machine_notices(analyze(store, "demo", "tiny").grid))
    for words in ("1 of 9 runs", "host: node1 (8 runs), node2 (1 runs)", "version of torch", "git commit"):
        assert words in said
    assert "node2" in (build_report(store, "demo", "tiny")[0] / "index.html").read_text()
    assert markdown(tabulate(analyze(store, "demo", "tiny"))) == before


def test_the_same_records_give_the_same_bytes_on_another_machine(reported, tmp_path):
    store, folder = reported
    shutil.copytree(store.root / "grids", tmp_path / "grids")
    shutil.copytree(store.runs, tmp_path / "runs")
    for cost in (tmp_path / "runs").glob("*/cost.json"):
        write_record(cost, {**read_record(cost), "seconds": 1.5, "images": 7})
    again, _ = build_report(Store(tmp_path), "demo", "tiny")
    for path in sorted(folder.iterdir()):
        if path.name not in ("costs.csv", "index.html"):
            assert path.read_bytes() == (again / path.name).read_bytes(), path.name


class Page(HTMLParser):
    VOID = frozenset({"meta", "br", "img", "link", "input"})

    def __init__(self):
        super().__init__()
        self.open, self.text, self.assets, self.links = [], [], [], []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag not in self.VOID:
            self.open.append(tag)
        self.assets += [given[name] for name in ("src", "srcset") if name in given]
        (self.links if tag == "a" else self.assets).extend([given["href"]] if "href" in given else [])
        self.assets += [given["xlink:href"]] if "xlink:href" in given else []

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_is_well_formed_self_contained_and_holds_every_number(reported):
    store, folder = reported
    html = (folder / "index.html").read_text()
    page = Page()
    page.feed(html)
    assert page.open == []
    assert all(asset.startswith("#") for asset in page.assets)
    assert "url(http" not in html
    assert "@import" not in html
    text = " ".join("".join(page.text).split())
    analysis = analyze(store, "demo", "tiny")
    table = tabulate(analysis)
    for cells in [*table.whole()[1], *table.long_rows]:
        for cell in cells:
            assert cell in text
    for record in analysis.grid.records.values():
        assert record.name in text
        assert f"../../runs/{record.name}/" in page.links
    for cell in analysis.cells.values():
        assert all(f"{value:.10g}" in text for value in cell.values.values())
        assert cell.column.fingerprint in text
    assert html.count("<figure>") == 5
    assert "var(--ink)" in html
    assert "2026-01-02" in text


def test_titles_notes_and_labels_cannot_break_the_page_or_a_figure(store):
    simple(
        store,
        {"beit": [60.0, 61.0], r"$\frac$": [60.0, 62.0]},
        title="a <script>alert(1)</script> & $title",
        note="1 < 2 **bold** `x<y`",
    )
    html = (build_report(store, "demo", "tiny")[0] / "index.html").read_text()
    assert "<script>alert" not in html
    assert r"$\FRAC$" in html
    assert "1 &lt; 2 <strong>bold</strong> <code>x&lt;y</code>" in html


def test_all_figures_are_drawn(reported):
    _, folder = reported
    names = {"intervals", "differences", "pretraining", "probe_layers", "learning_rates"}
    for name in names:
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (folder / f"{name}.png").stat().st_size > 10_000
        assert (folder / f"{name}.svg").read_text().count("<path") > 20
    assert {path.stem for path in folder.glob("*.png")} == names


def test_figures_that_no_longer_apply_are_removed(store):
    folder = store.report_folder("demo", "tiny")
    write_atomically(folder / "pretraining.png", b"old")
    simple(store, THREE_ROWS)
    build_report(store, "demo", "tiny")
    assert sorted(path.name for path in folder.glob("*.png")) == ["differences.png", "intervals.png"]


def test_a_curve_with_an_incomplete_last_line_is_read_and_thinned(tmp_path):
    path = tmp_path / "curve.csv"
    path.write_text("step,loss,lr\n0,4.0,0.1\n2,3.0,0.1\n3,2.")
    assert list(read_curve(path)["loss"]) == [4.0, 3.0, 2.0]
    assert read_curve(tmp_path / "none.csv").empty
    path.write_text("step,loss\n" + "".join(f"{step},{step / 10}\n" for step in range(1001)))
    thin = thinned(read_curve(path))
    assert len(thin) <= 200
    assert thin.iloc[0].to_list() == pytest.approx([2.5, 0.25])


def test_damaged_curves_are_named_and_the_others_are_shown(tmp_path):
    store = synthetic.demo(tmp_path / "results")
    contents = [b"", bytes(50), b"no curve\n", b"\xff\xfe\n\xff", b"step,loss,lr\n5,x,1\n"]
    *damaged, whole = (planned(store, "pretrain", name, seed) for name in ("beit", "no_tokens") for seed in range(3))
    for run, content in zip(damaged, contents, strict=True):
        (run.path / "curve.csv").write_bytes(content)
    folder, _ = build_report(store, "demo", "tiny")
    page = (folder / "index.html").read_text()
    curves = (published_copy(store, "demo", "tiny", tmp_path / "copy") / "curves.csv").read_text()
    for run in damaged:
        assert f"{run.name}: curve.csv is damaged: 0 of 1 lines" in page
        assert run.name not in curves
    assert (folder / "pretraining.png").exists()
    assert whole.name in curves


def test_of_a_curve_with_a_damaged_line_the_others_are_shown(tmp_path):
    store = synthetic.demo(tmp_path / "results")
    path = planned(store, "pretrain", "beit", 0).path / "curve.csv"
    path.write_bytes(path.read_bytes().replace(b"\n5,", b"\n\xff,"))
    assert len(read_curve(path)) == 399
    (notice,) = damaged_curves(analyze(store, "demo", "tiny").grid)
    assert "399 of 400 lines can be read" in notice


def test_the_copy_to_commit_is_small_and_complete_and_its_runs_do_not_count_as_done(reported, tmp_path):
    store, _ = reported
    target = published_copy(store, "demo", "tiny", tmp_path / "demo.tiny")
    lines = [json.loads(line) for line in (target / "records.jsonl").read_text().splitlines()]
    records = analyze(store, "demo", "tiny").grid.records
    assert [line["run"] for line in lines] == sorted(records)
    for line in lines:
        assert line["spec"] == store.run(line["run"]).spec()
        assert line["result"] == records[line["run"]].result
    assert sum(path.stat().st_size for path in target.iterdir()) < 2_000_000
    assert "never count as work done" in (target / "README.md").read_text()
    assert str(store.root) not in "".join(path.read_text() for path in target.iterdir() if path.suffix != ".png")
    assert "../../runs" not in (target / "index.html").read_text()
    assert list(Store(target).all_runs()) == []
    before = (target / "records.jsonl").read_bytes()
    published_copy(store, "demo", "tiny", target)
    assert (target / "records.jsonl").read_bytes() == before


def test_a_copy_does_not_overwrite_another_folder(reported, tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="Name an empty folder"):
        published_copy(reported[0], "demo", "tiny", tmp_path)


def test_the_report_needs_no_torch_and_its_import_is_light():
    code = (
        "import sys, mimbench.report.build, mimbench.report.archive, mimbench.report.terminal\n"
        "assert not {'torch', 'pandas', 'scipy', 'matplotlib', 'seaborn', 'rich', 'mmengine'} & set(sys.modules)\n"
        "import mimbench.report.figures, mimbench.report.page, seaborn\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_report_shows_what_each_evaluation_chose(reported):
    _, folder = reported
    page, text = (folder / "index.html").read_text(), (folder / "table.md").read_text()
    for words in ("layer 4, pooling class token", "lr 0.004"):
        assert words in page
        assert words in text


def test_a_pooling_that_was_taken_over_is_shown_beside_what_was_chosen():
    parents = {"encoder": {"run": "a"}, "linear_probe": {"run": "b", "pooling": "class_token"}}
    result = {"parents": parents, "values": {"chosen": {"lr": 0.0015}}}
    assert chosen_text(result) == "lr 0.0015, pooling class token"


def test_fine_tuning_is_stale_once_the_probe_chose_another_pooling(store):
    simple(store, THREE_ROWS)
    run = analyze(store, "demo", "tiny").cells["pixels", "finetune"].runs[1]
    probe = finish(
        planned(store, "linear_probe", "pixels", 1),
        {**evaluation(KNN, 50.0), "values": {"chosen": {"pooling": "mean"}}},
    )
    for pooling, stale in (("mean", 0), ("both", 1)):
        result = read_record(run.folder / "result.json")
        result["parents"] = {"linear_probe": {"run": probe.name, "pooling": pooling}}
        write_record(run.folder / "result.json", result)
        path = store.grid_path("demo", "tiny")
        record = read_record(path)
        for row in record["rows"]:
            if row["name"] == "pixels":
                row["runs"]["1"]["linear_probe"] = probe.name
        write_record(path, record)
        assert sum("was retrained" in notice for notice in result_notices(analyze(store, "demo", "tiny").grid)) == stale


def test_a_legend_of_many_rows_fits_its_figure(store, monkeypatch):
    """Otherwise the panels beside it collapse, and matplotlib warns."""
    rows = {f"{name}_{copy}": (f"{label} {copy}", *more)
            for copy in range(6) for name, (label, *more) in synthetic.ROWS.items()}  # fmt: skip
    monkeypatch.setattr(synthetic, "ROWS", rows)
    analysis = analyze(synthetic.rich(store, 1), "demo", "tiny")
    for figure_of in (learning_rates, probe_layers):
        with mpl.rc_context(STYLE), warnings.catch_warnings():
            warnings.simplefilter("error")
            figure_of(analysis).savefig(io.BytesIO())


def test_the_score_by_epoch_is_drawn_where_it_was_measured(tmp_path):
    store = Store(tmp_path)
    values = {"by_epoch": [{"epoch": 1, "val": 30.0}, {"epoch": 2, "val": 45.0}], "chosen": {"lr": 0.001}}
    run = finish(planned(store, "finetune", 0), evaluation(FINETUNE, 50.0, values=values))
    write_grid(
        store, [{"name": "a", "key": "a", "runs": {"0": {"finetune": run.name}}}], [column(FINETUNE, "Fine-tune")], [0]
    )
    figure = epochs(analyze(store, "demo", "tiny"))
    assert figure is not None
    ((axes,),) = [figure.axes]
    assert axes.lines[0].get_xydata().tolist() == [[1.0, 30.0], [2.0, 45.0]]
    assert "epochs" in {drawing.name for drawing in draw(analyze(store, "demo", "tiny"))}
