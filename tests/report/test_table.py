"""The table of a grid and its forms: DataFrame, CSV, markdown, LaTeX, terminal."""

import csv
import dataclasses
import io
import re
import shutil
import subprocess

import pandas as pd
import pytest
import synthetic_grid as synthetic
from synthetic_grid import FACTS, FINETUNE, KNN, column, evaluation, finish, planned, protocol, simple, write_grid

from mimbench.report.analysis import analyze
from mimbench.report.build import build_report
from mimbench.report.collect import read_grid
from mimbench.report.latex import latex
from mimbench.report.legend import legend
from mimbench.report.markdown import markdown
from mimbench.report.table import frame, table_csv, tabulate
from mimbench.report.terminal import plain_text, print_table
from mimbench.store.records import read_record, write_record
from mimbench.store.results import Store

THREE_ROWS = {"beit": [60.0, 61.0, 62.5], "pixels": [58.0, 60.1, 60.0], "scratch": [50.0, 51.2, 52.4]}
PRIMARY = {"row": "scratch", "protocol": "finetune"}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results")


def table_of(store):
    return tabulate(analyze(store, "demo", "tiny"))


def csv_lines(store):
    return list(csv.DictReader(io.StringIO(table_csv(analyze(store, "demo", "tiny")))))


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
| Row | Evaluation | n | Mean | SD | 95 % CI | Difference | 95 % CI of the difference | p | p (Holm) | Verdict |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| BEIT | Fine-tune (%) | 3 | 61.17 | 1.26 | 58.04 to 64.29 |  |  |  |  |  |
| PIXELS | Fine-tune (%) | 3 | 59.37 | 1.18 | 56.42 to 62.31 | −1.80 | −3.83 to +0.23 | 0.063 | 0.063 | not significant |
| SCRATCH | Fine-tune (%) | 3 | 51.20 | 1.20 | 48.22 to 54.18 | −9.97 | −10.35 to −9.59 | <0.0001 | pre-specified, unadjusted \
| lower |
"""


def test_the_markdown_table_of_a_small_grid_matches_one_computed_by_hand(store):
    text = markdown(table_of(simple(store, THREE_ROWS, PRIMARY)))
    assert text.startswith(GOLDEN)
    assert GOLDEN_LONG in text
    assert "SCRATCH against BEIT, Fine-tune: pre-specified, unadjusted" in text
    assert "not the choice of images" in text


def test_the_csv_holds_the_value_and_the_run_of_every_seed(store):
    lines = csv_lines(simple(store, THREE_ROWS, PRIMARY))
    scratch = lines[2]
    assert (scratch["row"], scratch["reference"], scratch["protocol"], scratch["metric"], scratch["n"]) == (
        "scratch", "beit", "finetune", "accuracy", "3")  # fmt: skip
    assert [scratch[f"seed_{seed}"] for seed in range(3)] == ["50.0", "51.2", "52.4"]
    assert all(store.run(scratch[f"run_{seed}"]).done() for seed in range(3))
    assert scratch["mean"] == "51.2"
    assert scratch["difference"] == "-9.966667"
    assert (scratch["primary"], scratch["p_holm"], scratch["n_pairs"]) == ("True", "", "3")
    assert [line["verdict"] for line in lines] == ["", "not significant", "lower"]


def test_the_data_frame_equals_the_csv_except_for_the_digits_of_statistics(store):
    found = frame(analyze(synthetic.rich(store), "demo", "tiny"))
    written = pd.read_csv(io.StringIO(table_csv(analyze(store, "demo", "tiny"))))
    assert list(found.columns) == list(written.columns)
    assert len(found) == len(written) == 24
    for name in ("mean", "ci_low", "difference", "p", "p_holm", "paper", "seed_2"):
        assert written[name].to_numpy() == pytest.approx(found[name].to_numpy(), rel=1e-6, nan_ok=True)
    assert found["seed_0"].equals(written["seed_0"])
    assert found["n_pairs"].dtype == "Int64"


def test_one_seed_is_marked_in_every_form_and_nothing_is_tested(store):
    table = table_of(simple(store, {"beit": [60.0], "scratch": [50.0]}, PRIMARY))
    assert table.rows[0][1] == "60.00 (one seed)"
    for text in (markdown(table), plain_text(table), latex(table)):
        assert text.count("One seed: no confidence interval, no test") == 1
    assert [row[5] for row in table.long_rows] == ["no confidence interval with one seed"] * 2
    assert table.long_rows[1][6:8] == ["−10.00", ""]
    assert table.long_rows[1][-1] == "no test with one seed"
    assert csv_lines(store)[1]["p"] == ""
    page = (build_report(store, "demo", "tiny")[0] / "index.html").read_text()
    assert "One seed: no confidence interval, no test" in page


def test_identical_seeds_have_no_interval(store):
    table = table_of(simple(store, {"beit": [60.0, 60.0]}))
    assert table.rows[0][1] == "60.00 (identical over seeds)"
    assert table.long_rows[0][5] == "identical over seeds"


def test_unfinished_seeds_show_their_state_and_finished_ones_count(store):
    rows = []
    for name in ("beit", "pixels"):
        runs = {str(seed): {"finetune": planned(store, "finetune", name, seed).name} for seed in range(3)}
        rows.append({"name": name, "runs": runs})
    rows[1]["runs"]["0"]["knn"] = planned(store, "knn", "pixels", 0).name
    write_grid(store, rows, [column(FINETUNE, "Fine-tune"), column(KNN, "kNN")], [0, 1, 2])
    finish(planned(store, "finetune", "beit", 0), evaluation(FINETUNE, 60.0))
    finish(planned(store, "finetune", "beit", 2), evaluation(FINETUNE, 62.0))
    failed = planned(store, "finetune", "pixels", 0)
    failed.fail(failed.begin_attempt(FACTS), RuntimeError("the loss is not finite"))
    lease = planned(store, "finetune", "pixels", 1).acquire()
    table = table_of(store)
    lease.release()
    beit, pixels = table.rows
    assert beit == ["beit", "61.00 ± 12.71 (n=2)", "–"]
    assert pixels == ["pixels", "1 failed, 1 planned, 1 running", "planned"]
    build_report(store, "demo", "tiny")


def test_a_difference_over_fewer_seeds_than_the_mean_is_marked(store):
    table = table_of(simple(store, {"beit": [60.0, 61.0], "pixels": [62.0, 64.0, 20.0]}))
    assert table.rows[1][1].endswith(" (2 paired)")
    (line,) = [line for line in table.long_rows if line[0] == "PIXELS"]
    assert (line[2], line[3], line[6]) == ("3", "48.67", "+2.50 (n=2)")
    assert "+2.50 (n=2)" in (build_report(store, "demo", "tiny")[0] / "index.html").read_text()


def test_rows_that_were_never_planned_are_counted_and_not_shown(store):
    """Many rows may be run with --only. What these are compared with stays."""
    grid = table_of(simple(store, {"a": [], "b": [3.0, 4.0], "c": [], "d": []}, {**PRIMARY, "row": "d"})).grid
    assert [row.name for row in grid.rows] == ["a", "b", "d"]
    assert grid.note.endswith("Rows of the grid that were never planned here, and are not shown: 1 of 4.")


def test_holm_counts_the_planned_comparisons_and_not_only_the_finished_ones(store):
    simple(store, {**THREE_ROWS, "other": [50.0, 51.0, 52.0]}, PRIMARY)
    analysis = analyze(store, "demo", "tiny")
    for record in analysis.cells["other", "finetune"].runs.values():
        (record.folder / "result.json").unlink()
    comparison = analyze(store, "demo", "tiny").cells["pixels", "finetune"].comparison
    assert comparison.p_holm == pytest.approx(2 * comparison.p)


def test_with_axes_each_row_is_compared_with_the_reference_at_its_own_point(store):
    numbers = {"beit[lr=1]": [60.0, 61.0, 62.5], "beit[lr=2]": [30.0, 31.0, 32.0],
               "pixels[lr=1]": [58.0, 60.1, 60.0], "pixels[lr=2]": [33.0, 34.5, 35.0]}  # fmt: skip
    simple(store, numbers, base_label="BEiT")
    path = store.grid_path("demo", "tiny")
    record = read_record(path)
    for row in record["rows"]:
        row["reference"] = row["name"].replace("pixels", "beit")
    write_record(path, record)
    analysis = analyze(store, "demo", "tiny")
    comparisons = {name: cell.comparison for (name, _), cell in analysis.cells.items()}
    assert comparisons["beit[lr=1]"] is comparisons["beit[lr=2]"] is None
    assert comparisons["pixels[lr=1]"].difference == pytest.approx(-1.8)
    assert comparisons["pixels[lr=2]"].difference == pytest.approx(9.5 / 3)
    two = [comparisons[f"pixels[lr={rate}]"] for rate in (1, 2)]
    assert min(c.p_holm / c.p for c in two) >= 1
    assert max(c.p_holm / c.p for c in two) == pytest.approx(2)  # of the two comparisons, not of three
    text = markdown(tabulate(analysis))
    assert "significantly higher or lower than BEiT at the same point of the axes (" in text
    assert "differences from BEiT at the same point of the axes\n" in text
    assert [line["reference"] for line in csv_lines(store)] == ["beit[lr=1]", "beit[lr=2]"] * 2
    assert (
        "from BEiT at the same point of the axes" in (build_report(store, "demo", "tiny")[0] / "index.html").read_text()
    )


def test_the_latex_table_escapes_special_characters(store):
    text = latex(table_of(synthetic.rich(store)))
    body = text[text.index("\\toprule") : text.index("\\bottomrule")]
    assert len(re.findall(r"\\\\$", body, re.M)) == 7
    assert not re.search(r"(?<!\\)[%_#]", body)
    assert text.isascii()


def test_the_latex_table_is_shrunk_to_the_column_and_has_no_column_of_the_papers_numbers(store):
    table = table_of(synthetic.rich(store))
    text = latex(table)
    assert table.paper is not None
    assert "82.86" not in text
    assert table.paper_note not in text
    body = text[text.index("\\midrule") : text.index("\\bottomrule")]
    assert {line.count(" & ") for line in body.splitlines()[1:-1]} == {len(table.headings) - 1}
    assert r"\resizebox{\ifdim\width>\linewidth" in text


@pytest.mark.skipif(
    shutil.which("pdflatex") is None, reason="needs pdflatex (apt-get install texlive-latex-recommended)"
)
@pytest.mark.parametrize("columns", ["", "[twocolumn]"])
def test_the_latex_table_compiles_and_is_no_wider_than_a_column(store, tmp_path, columns):
    simple(
        store,
        {"& a \\# _very_ {long} ~label^ of 100 %, which takes several lines": [60.0, 61.0], **THREE_ROWS},
        PRIMARY,
    )
    packages = r"\usepackage{booktabs,graphicx,array}"
    (tmp_path / "page.tex").write_text(
        rf"\documentclass{columns}{{article}}{packages}\begin{{document}}{latex(table_of(store))}\end{{document}}"
    )
    words = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
    assert "Overfull" not in done.stdout


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


def test_stdout_gets_plain_text_in_a_pipe_and_a_drawn_table_on_a_terminal(store, monkeypatch):
    simple(store, THREE_ROWS, PRIMARY)
    pipe, terminal = io.StringIO(), Terminal()
    print_table(table_of(store), pipe)
    assert pipe.getvalue() == plain_text(table_of(store))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    print_table(table_of(store), terminal)
    assert "┃" in terminal.getvalue()
    assert "51.20 ± 2.98 ↓" in terminal.getvalue()
    assert "\x1b[3" not in terminal.getvalue()  # no color


def test_a_narrow_terminal_gets_the_measured_numbers_and_no_word_is_broken(store, monkeypatch):
    simple(store, THREE_ROWS, PRIMARY)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "26")
    terminal, table = Terminal(), table_of(store)
    print_table(dataclasses.replace(table, flops=["63.8 T (1.00)"] * len(table.rows)), terminal)
    printed = re.sub(r"\x1b\[[0-9]*m", "", terminal.getvalue())
    drawn = [line for line in printed.splitlines() if line.startswith(("┃", "│"))]
    words = {word for text in (*table.headings, *(text for row in table.rows for text in row)) for word in text.split()}
    assert {word for line in drawn for word in re.sub("[┃│]", " ", line).split()} == words
    assert max(map(len, printed.splitlines())) <= 26


def test_a_stdout_limited_to_ascii_still_gets_the_table(store):
    simple(store, THREE_ROWS, PRIMARY)
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    print_table(table_of(store), stream)
    stream.flush()
    assert b"51.20 +- 2.98 v" in stream.buffer.getvalue()


def test_the_legend_names_the_regularizers_that_were_off_and_none_that_was_on(tmp_path):
    store, on = Store(tmp_path), {"mixup": 0.8, "drop_path": 0.1, "label_smoothing": 0.0}
    run = finish(planned(store, "finetune", 0), {**evaluation(FINETUNE, 50.0), "protocol": protocol(FINETUNE, **on)})
    write_grid(
        store, [{"name": "a", "key": "a", "runs": {"0": {"finetune": run.name}}}], [column(FINETUNE, "Fine-tune")], [0]
    )
    sentence = legend(read_grid(store, "demo", "tiny"))[-1]
    assert sentence == (
        "Regularizers that are off: Fine-tune (cutmix, RandAugment, random erasing, label smoothing, weight averaging)."
    )
