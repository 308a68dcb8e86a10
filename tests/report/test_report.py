"""From a results folder to tables, figures and a page; what is missing, broken or not comparable on the way."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pytest
import synthetic_grid as synthetic
from synthetic_grid import FACTS, FINETUNE, KNN, column, evaluation, finish, planned, protocol, simple, write_grid

from mimbench.errors import UserError
from mimbench.report.analysis import analyse
from mimbench.report.archive import published_copy
from mimbench.report.build import build_report
from mimbench.report.costs import ALL_ROWS, costs
from mimbench.report.curves import read_curve, thinned
from mimbench.report.notices import machine_notices, result_notices, run_notices
from mimbench.report.tables import latex, long_rows, markdown, text_rows, tidy_csv
from mimbench.report.terminal import print_table, terminal_table
from mimbench.store.files import write_atomically, write_json
from mimbench.store.results import Store

THREE_ROWS = {"beit": [60.0, 61.0, 62.5], "pixels": [58.0, 60.1, 60.0], "scratch": [50.0, 51.2, 52.4]}
PRIMARY = {"row": "scratch", "protocol": "finetune"}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results")


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """A grid like the real one and its report."""
    store = synthetic.demo(tmp_path_factory.mktemp("rich") / "results")
    return store, build_report(store, "demo", "tiny")


def lines_of(store):
    return list(csv.DictReader(io.StringIO(tidy_csv(analyse(store, "demo", "tiny")))))


GOLDEN = """\
# A small demonstration

Grid `demo`, scale `tiny`, 3 seeds planned.

The data was made so that pre-training helps: this shows that the **bench** works, not that `BEiT` does.

|  | Fine-tune (%) |
| --- | ---: |
| BEIT | 61.17 ± 3.13 |
| PIXELS | 59.37 ± 2.94 |
| SCRATCH | 51.20 ± 2.98 ↓ |
"""
GOLDEN_LONG = """\
| Row | Evaluation | n | Mean | sd | 95 % interval | Difference | its 95 % interval | p | p (Holm) | Verdict |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| BEIT | Fine-tune (%) | 3 | 61.17 | 1.26 | 58.04 to 64.29 |  |  |  |  |  |
| PIXELS | Fine-tune (%) | 3 | 59.37 | 1.18 | 56.42 to 62.31 | −1.80 | −3.83 to +0.23 | 0.063 | 0.063 | not told apart |
| SCRATCH | Fine-tune (%) | 3 | 51.20 | 1.20 | 48.22 to 54.18 | −9.97 | −10.35 to −9.59 | <0.0001 | primary | lower |
"""


def test_the_markdown_table_of_a_small_grid_is_as_worked_by_hand(store):
    text = markdown(analyse(simple(store, THREE_ROWS, PRIMARY), "demo", "tiny"))
    assert text.startswith(GOLDEN)
    assert text.endswith(GOLDEN_LONG)
    assert "the one comparison named beforehand (SCRATCH against BEIT, Fine-tune) as it stands" in text
    assert "the data and its splits stay fixed" in text
    assert "not the choice of images" in text


def test_the_csv_holds_the_raw_value_and_the_run_of_every_seed(store):
    lines = lines_of(simple(store, THREE_ROWS, PRIMARY))
    scratch = lines[2]
    assert (scratch["row"], scratch["protocol"], scratch["metric"], scratch["n"]) == (
        "scratch", "finetune", "accuracy", "3")  # fmt: skip
    assert [scratch[f"seed_{seed}"] for seed in range(3)] == ["50.0", "51.2", "52.4"]
    assert all(store.run(scratch[f"run_{seed}"]).done() for seed in range(3))
    assert float(scratch["mean"]) == pytest.approx(51.2)
    assert float(scratch["difference"]) == pytest.approx(-29.9 / 3, abs=1e-5)
    assert (scratch["primary"], scratch["p_holm"], scratch["verdict"]) == ("yes", "", "lower")
    assert [line["verdict"] for line in lines] == ["base", "not told apart", "lower"]


def test_one_seed_is_marked_everywhere_and_nothing_is_tested(store):
    analysis = analyse(simple(store, {"beit": [60.0], "scratch": [50.0]}, PRIMARY), "demo", "tiny")
    assert "50.00 (one seed)" in terminal_table(analysis)
    assert all(text.count("One seed: no interval, no test") == 1
               for text in (markdown(analysis), terminal_table(analysis), latex(analysis)))  # fmt: skip
    assert [row[5] for row in long_rows(analysis)] == ["one seed: no interval"] * 2
    assert long_rows(analysis)[1][6:] == ["−10.00", "", "", "primary", "one seed: no test"]
    assert lines_of(store)[1]["p"] == ""
    page = (build_report(store, "demo", "tiny") / "index.html").read_text()
    assert "One seed: no interval, no test" in page


def test_unfinished_seeds_show_their_state_and_the_rest_is_still_counted(store):
    rows = []
    for name in ("beit", "pixels"):
        runs = {str(seed): {"finetune": planned(store, "finetune", name, seed).name} for seed in range(3)}
        rows.append({"name": name, "label": name, "description": "", "paper": None, "runs": runs})
    rows[1]["runs"]["0"]["knn"] = planned(store, "knn", "pixels", 0).name
    write_grid(store, rows, [column(FINETUNE, "Fine-tune"), column(KNN, "kNN")], [0, 1, 2])
    finish(planned(store, "finetune", "beit", 0), evaluation(FINETUNE, 60.0))
    finish(planned(store, "finetune", "beit", 2), evaluation(FINETUNE, 62.0))
    failed = planned(store, "finetune", "pixels", 0)
    failed.fail(failed.begin_attempt(FACTS), RuntimeError("the loss is not finite"))
    claim = planned(store, "finetune", "pixels", 1).claim()
    shutil.rmtree(store.run(rows[1]["runs"]["2"]["finetune"]).path)  # a folder that somebody removed
    analysis = analyse(store, "demo", "tiny")
    claim.release()
    _, (beit, pixels) = text_rows(analysis)
    assert beit == ["beit", "61.00 ± 12.71 (n=2)", "–"]
    assert pixels == ["pixels", "1 failed, 1 planned, 1 running", "planned"]
    assert "the loss is not finite" in run_notices(analysis.grid)[0]
    build_report(store, "demo", "tiny")


def test_a_corrupt_result_is_named_and_the_table_goes_on(store):
    simple(store, THREE_ROWS, PRIMARY)
    run = analyse(store, "demo", "tiny").cells["pixels", "finetune"].runs[1].folder
    write_atomically(run / "result.json", '{"metric": "acc')
    analysis = analyse(store, "demo", "tiny")
    assert analysis.cells["pixels", "finetune"].summary.n == 2
    assert analysis.cells["pixels", "finetune"].unfinished == "1 unreadable"
    assert run_notices(analysis.grid)[0].startswith(f"{run.name} (unreadable): runs/{run.name}/result.json: not")


@pytest.mark.parametrize("metrics", [{}, {"accuracy": None}, {"accuracy": "61"}, None])
def test_a_result_without_its_number_is_named_like_a_corrupt_one(store, metrics):
    simple(store, THREE_ROWS)
    run = analyse(store, "demo", "tiny").cells["beit", "finetune"].runs[0].folder
    write_json(run / "result.json", {**evaluation(FINETUNE, 1.0), "metrics": metrics})
    assert "metrics.accuracy is no finite number" in run_notices(analyse(store, "demo", "tiny").grid)[0]


def test_an_empty_grid_gives_a_report_without_figures(store):
    run = planned(store, "finetune", "beit", 0)
    row = {"name": "beit", "label": "BEiT", "description": "", "paper": None, "runs": {"0": {"finetune": run.name}}}
    write_grid(store, [row], [column(FINETUNE, "Fine-tune")], [0])
    folder = build_report(store, "demo", "tiny")
    assert not list(folder.glob("*.png"))
    assert "No finished run yet" in (folder / "index.html").read_text()


def test_a_grid_that_was_never_planned_is_named_with_the_nearest(store):
    simple(store, THREE_ROWS)
    with pytest.raises(UserError, match=r"unknown grid 'demos.tiny'. Did you mean 'demo.tiny'"):
        analyse(store, "demos", "tiny")


@pytest.mark.parametrize("broken", [{"rows": None}, {"columns": [{}]}, {"base": "nobody"}, {"seeds": 3}])
def test_a_broken_grid_file_is_named(store, broken):
    simple(store, THREE_ROWS, **broken)
    with pytest.raises(UserError, match=re.escape(str(store.grid_path("demo", "tiny")))):
        analyse(store, "demo", "tiny")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"protocol": protocol(FINETUNE, epochs=30)}, "Setting epochs: 20 .* against 30"),
        ({"protocol": {**protocol(FINETUNE), "version": 2}}, r"protocol.version: 1 .* against 2"),
        ({"data": {"name": "shapes", "fingerprint": "e" * 12}}, "data.fingerprint"),
        ({"metric": "top5", "metrics": {"top5": 90.0, "accuracy": 60.0}}, 'metric: the grid asks for "accuracy"'),
    ],
)
def test_numbers_of_another_ruler_are_refused_with_the_field_and_the_runs(store, change, named):
    simple(store, THREE_ROWS)
    run = analyse(store, "demo", "tiny").cells["pixels", "finetune"].runs[1].folder
    write_json(run / "result.json", {**json.loads((run / "result.json").read_text()), **change})
    with pytest.raises(UserError, match=named) as error:
        build_report(store, "demo", "tiny")
    assert run.name in str(error.value)
    assert "column 'finetune'" in str(error.value)


def test_numbers_of_another_protocol_than_the_grid_asks_for_are_refused(store):
    simple(store, THREE_ROWS, columns=[{**column(FINETUNE, "Fine-tune"), "fingerprint": "0" * 12}])
    with pytest.raises(UserError, match=r'protocol.fingerprint: the grid asks for "000000000000"'):
        analyse(store, "demo", "tiny")


def test_holm_counts_the_comparisons_that_are_planned_not_those_that_have_finished(store):
    simple(store, {**THREE_ROWS, "other": [50.0, 51.0, 52.0]}, PRIMARY)
    analysis = analyse(store, "demo", "tiny")
    for record in analysis.cells["other", "finetune"].runs.values():
        (record.folder / "result.json").unlink()
    comparison = analyse(store, "demo", "tiny").cells["pixels", "finetune"].comparison
    assert comparison.p_holm == pytest.approx(2 * comparison.p)


def test_rows_at_a_point_of_the_axes_are_compared_with_the_reference_at_that_point(store):
    numbers = {"beit[lr=1]": [60.0, 61.0, 62.5], "beit[lr=2]": [30.0, 31.0, 32.0],
               "pixels[lr=1]": [58.0, 60.1, 60.0], "pixels[lr=2]": [33.0, 34.5, 35.0]}  # fmt: skip
    simple(store, numbers, base_label="BEiT")
    path = store.grid_path("demo", "tiny")
    record = json.loads(path.read_text())
    for row in record["rows"]:
        row["reference"] = row["name"].replace("pixels", "beit")
    write_json(path, record)
    analysis = analyse(store, "demo", "tiny")
    comparisons = {name: cell.comparison for (name, _), cell in analysis.cells.items()}
    assert comparisons["beit[lr=1]"] is comparisons["beit[lr=2]"] is None
    assert comparisons["pixels[lr=1]"].difference == pytest.approx(-1.8)
    assert comparisons["pixels[lr=2]"].difference == pytest.approx(9.5 / 3)
    two = [comparisons[f"pixels[lr={rate}]"] for rate in (1, 2)]
    assert min(c.p_holm / c.p for c in two) >= 1
    assert max(c.p_holm / c.p for c in two) == pytest.approx(2)  # of the two comparisons, not of three
    text = markdown(analysis)
    assert "mark a difference from BEiT at the same point of the axes that" in text
    assert "its difference from BEiT at the same point of the axes\n" in text
    assert [line["verdict"] for line in lines_of(store)][:2] == ["base", "base"]
    assert "from BEiT at the same point of the axes" in (build_report(store, "demo", "tiny") / "index.html").read_text()


def test_shared_runs_are_counted_once_in_the_total_cost(reported):
    store, folder = reported
    found = {(cost.row, cost.kind): cost for cost in costs(analyse(store, "demo", "tiny").grid)}
    assert found["beit", "tokenizer"].runs == 3
    assert found["no_blockwise", "tokenizer"].mean_seconds == 10.0
    assert ("scratch", "pretrain") not in found
    assert (found[ALL_ROWS, "tokenizer"].runs, found[ALL_ROWS, "tokenizer"].total_seconds) == (3, 30.0)
    assert found[ALL_ROWS, "all"].runs == 86
    assert found[ALL_ROWS, "all"].total_images == 3 * 100 + 15 * 120_000 + 68 * 50_000
    assert "all rows, shared runs once" in (folder / "costs.csv").read_text()


def test_flags_and_unfit_tokenizers_are_said_once_with_rows_and_seeds(reported):
    store, folder = reported
    notices = result_notices(analyse(store, "demo", "tiny").grid)
    assert notices == [
        "tokenizer of BEiT; − block-wise; + recover 100 %: does not fit: perplexity 3.1 of 64 codes (seed 1)",
        "Fine-tune of BEiT; Scratch: the best learning rate 0.004 is the highest tried (seeds 0, 1, 2)",
    ]
    assert all(notice in (folder / "table.md").read_text() for notice in notices)


def test_an_evaluation_of_weights_that_are_no_more_is_said(store):
    """Its pre-training was done again since, on another machine, with other bits."""
    runs = {}
    parent = finish(planned(store, "pretrain", 0), {"metrics": {"loss": 1.0}, "weights_sha256": "new"})
    for kind, base, seen in (("finetune", FINETUNE, "old"), ("knn", KNN, "new")):
        parents = {"encoder": {"run": parent.name, "weights_sha256": seen}}
        runs[kind] = finish(planned(store, kind, 0), evaluation(base, 60.0, parents=parents)).name
    row = {"name": "beit", "label": "BEiT", "runs": {"0": {"pretrain": parent.name, **runs}}}
    write_grid(store, [row], [column(FINETUNE, "Fine-tune"), column(KNN, "kNN")], [0])
    (notice,) = result_notices(analyse(store, "demo", "tiny").grid)
    assert notice.startswith(
        f"Fine-tune of BEiT: of other weights than the encoder's, {parent.name}, which was done again"
    )


def test_a_difference_over_fewer_seeds_than_the_mean_says_so(store):
    simple(store, {"beit": [60.0, 61.0], "pixels": [62.0, 64.0, 20.0]})
    analysis = analyse(store, "demo", "tiny")
    _, (_, pixels) = text_rows(analysis)
    assert pixels[1].endswith(" (2 compared)")
    (line,) = [line for line in long_rows(analysis) if line[0] == "PIXELS"]
    assert (line[2], line[3], line[6]) == ("3", "48.67", "+2.50 (n=2)")
    assert "+2.50 (n=2)" in (build_report(store, "demo", "tiny") / "index.html").read_text()


def test_other_micro_batches_are_said_and_the_numbers_of_jobs_are_not(store):
    simple(store, {"beit": [60.0, 61.0]})
    for seed, micro_batch in ((0, None), (1, 2)):
        run = analyse(store, "demo", "tiny").cells["beit", "finetune"].runs[seed].folder
        facts = {**FACTS, "micro_batch": micro_batch, "slurm_job": f"17_{seed}"}
        write_json(run / "attempts" / "20260103T000000.000000001-node1-8.json", facts)
    assert machine_notices(analyse(store, "demo", "tiny").grid) == [
        "The runs differ in micro_batch: 2 (1 runs), none (1 runs)."
    ]


def test_mixed_machines_and_uncommitted_changes_are_said_on_the_page_alone(store):
    simple(store, THREE_ROWS)
    before = markdown(analyse(store, "demo", "tiny"))
    assert not machine_notices(analyse(store, "demo", "tiny").grid)
    run = analyse(store, "demo", "tiny").cells["beit", "finetune"].runs[0].folder
    facts = {**FACTS, "host": "node2", "git": {"sha": "f" * 40, "dirty": True}, "versions": {"torch": "2.6.0"}}
    write_json(run / "attempts" / "20260103T000000.000000001-node2-8.json", facts)
    said = " ".join(machine_notices(analyse(store, "demo", "tiny").grid))
    for words in ("1 of 9 runs", "host: node1 (8 runs), node2 (1 runs)", "version of torch", "git commit"):
        assert words in said
    assert "node2" in (build_report(store, "demo", "tiny") / "index.html").read_text()
    assert markdown(analyse(store, "demo", "tiny")) == before


def test_the_same_records_give_the_same_bytes_on_another_machine(reported, tmp_path):
    store, folder = reported
    shutil.copytree(store.root / "grids", tmp_path / "grids")
    shutil.copytree(store.runs, tmp_path / "runs")
    for cost in (tmp_path / "runs").glob("*/cost.json"):
        write_json(cost, {"seconds": 1.5, "images": 7})
    again = build_report(Store(tmp_path), "demo", "tiny")
    for path in sorted(folder.iterdir()):
        if path.name not in ("costs.csv", "index.html"):
            assert path.read_bytes() == (again / path.name).read_bytes(), path.name


class Page(HTMLParser):
    VOID = frozenset({"meta", "br", "img", "link"})

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


def test_the_page_is_well_formed_needs_no_other_file_and_holds_every_number(reported):
    store, folder = reported
    html = (folder / "index.html").read_text()
    page = Page()
    page.feed(html)
    assert page.open == []
    assert all(asset.startswith("#") for asset in page.assets)
    assert "url(http" not in html
    assert "@import" not in html
    text = " ".join("".join(page.text).split())
    analysis = analyse(store, "demo", "tiny")
    for cells in [*text_rows(analysis)[1], *long_rows(analysis)]:
        for cell in cells:
            assert cell in text
    for record in analysis.grid.records.values():
        assert record.name in text
        assert f"../../runs/{record.name}/" in page.links
    for cell in analysis.cells.values():
        assert all(repr(value) in text for value in cell.values.values())
        assert cell.column.fingerprint in text
    assert html.count("<figure>") == 5
    assert "var(--ink)" in html
    assert "2026-01-02" in text


def test_what_users_write_cannot_break_the_page(store):
    simple(store, {"beit": [60.0, 61.0]}, title="a <script>alert(1)</script> & $title", note="1 < 2 **bold** `x<y`")
    html = (build_report(store, "demo", "tiny") / "index.html").read_text()
    assert "<script>alert" not in html
    assert "1 &lt; 2 <strong>bold</strong> <code>x&lt;y</code>" in html


def test_every_figure_is_drawn_and_old_ones_go(reported):
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


def test_a_curve_cut_short_by_a_crash_is_read_as_far_as_it_goes(tmp_path):
    path = tmp_path / "curve.csv"
    path.write_text("step,loss,lr\n0,4.0,0.1\n1,nan,0.1\n2,3.0,0.1\n3,2.")
    assert read_curve(path) == [(0.0, 4.0), (2.0, 3.0), (3.0, 2.0)]
    assert read_curve(tmp_path / "none.csv") == []
    assert len(thinned([(float(step), 1.0) for step in range(1001)])) <= 200


def test_the_latex_table_escapes_what_latex_would_eat(reported):
    text = (reported[1] / "table.tex").read_text()
    body = text[text.index("\\toprule") : text.index("\\bottomrule")]
    assert body.count(r"\\") == 7
    assert not re.search(r"(?<!\\)[%_#]", body)
    assert text.isascii() or set(re.findall(r"[^\x00-\x7f]", text)) == set()


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


def test_stdout_gets_plain_text_in_a_pipe_and_a_drawn_table_on_a_terminal(store, monkeypatch):
    simple(store, THREE_ROWS, PRIMARY)
    pipe, terminal = io.StringIO(), Terminal()
    print_table(store, "demo", "tiny", pipe)
    assert pipe.getvalue() == terminal_table(analyse(store, "demo", "tiny"))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    print_table(store, "demo", "tiny", terminal)
    assert "┃" in terminal.getvalue()
    assert "51.20 ± 2.98 ↓" in terminal.getvalue()
    assert "\x1b[3" not in terminal.getvalue()  # no colour


def test_a_stdout_that_knows_only_ascii_still_gets_the_table(store):
    simple(store, THREE_ROWS, PRIMARY)
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    print_table(store, "demo", "tiny", stream)
    stream.flush()
    assert b"51.20 +- 2.98 v" in stream.buffer.getvalue()


def test_the_copy_for_committing_is_small_whole_and_never_taken_for_work(reported, tmp_path):
    store, _ = reported
    target = published_copy(store, "demo", "tiny", tmp_path / "demo.tiny")
    lines = [json.loads(line) for line in (target / "records.jsonl").read_text().splitlines()]
    records = analyse(store, "demo", "tiny").grid.records
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


def test_a_copy_does_not_overwrite_a_strangers_folder(reported, tmp_path):
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


@pytest.mark.browser
def test_the_page_renders_in_chromium(reported, tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on this machine (Debian: apt install chromium)")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
               "--disable-background-networking", "--disable-component-update", "--disable-sync",
               f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1000,2000"]  # fmt: skip
    address = (reported[1] / "index.html").as_uri()
    picture = tmp_path / "page.png"
    environment = {**os.environ, "HOME": str(tmp_path)}
    subprocess.run([*command, f"--screenshot={picture}", address], check=True, timeout=120, capture_output=True,
                   env=environment)  # fmt: skip
    assert picture.stat().st_size > 50_000
    dumped = subprocess.run([*command, "--dump-dom", address], check=True, timeout=120, capture_output=True, text=True,
                            env=environment)  # fmt: skip
    assert dumped.stdout.count("<figure>") == 5
