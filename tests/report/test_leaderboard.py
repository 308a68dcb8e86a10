"""The leaderboard: ranks by tests that scipy agrees with, one line per row whoever computed it, published numbers apart."""

import contextlib
import html
import math
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
import scipy.stats
from commands import ROOT, mimbench
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_grid import FINETUNE, KNN, column, evaluation, finish, planned, write_grid

from mimbench.errors import UserError
from mimbench.report.analysis import analyze
from mimbench.report.latex import latex
from mimbench.report.leaderboard import Origin, leaderboard
from mimbench.report.leaderboard_page import leaderboard_page
from mimbench.report.markdown import markdown
from mimbench.report.page import page
from mimbench.report.ranking import pairwise, ranks
from mimbench.report.statistics import holm
from mimbench.report.table import tabulate
from mimbench.store.results import Store, run_name

HERE = Origin("here", "demo.tiny/index.html", "../runs")
THERE = Origin("there", "../../there/index.html", None)
numbers = st.integers(0, 1000).map(lambda value: value / 10)
samples = st.lists(st.dictionaries(st.integers(0, 5), numbers, min_size=2), min_size=2, max_size=6)


@pytest.mark.filterwarnings("ignore:Precision loss")  # scipy's, of nearly equal values
@given(samples)
def test_every_pair_is_tested_as_scipy_does(rows):
    for first, second, difference, p in zip(*pairwise(rows), strict=True):
        one, other = rows[first], rows[second]
        a, b = list(one.values()), list(other.values())
        assert difference == pytest.approx(np.mean(a) - np.mean(b), abs=1e-9)
        if math.isnan(p):
            continue
        if one.keys() == other.keys():
            expected = scipy.stats.ttest_rel([one[seed] for seed in sorted(one)], [other[seed] for seed in sorted(one)])
        else:
            expected = scipy.stats.ttest_ind(a, b, equal_var=False)
        assert p == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12)


@given(samples)
def test_a_rank_is_one_plus_the_rows_that_are_significantly_better(rows):
    tests = {(int(i), int(j)): (d, p) for i, j, d, p in zip(*pairwise(rows), strict=True)}
    adjusted = holm({pair: p for pair, (_, p) in tests.items() if not math.isnan(p)}, family=len(tests))
    expected = [1] * len(rows)
    for pair, p in adjusted.items():
        if p < 0.05:
            expected[pair[int(tests[pair][0] > 0)]] += 1
    assert ranks(rows) == expected


def test_what_does_not_vary_or_has_one_seed_is_not_ranked_below_anything():
    assert ranks([{0: 60.0, 1: 61.0}, {0: 50.0, 1: 51.0}, {0: 10.0}]) == [1, 1, 1]
    assert ranks([{0: 60.0, 1: 60.0}, {2: 50.0, 3: 50.0}]) == [1, 1]
    assert ranks([]) == []


def spec_of(name, seed, **schedule):
    return {"kind": "pretrain", "seed": seed, "parents": {}, "recipe": {
        "row": name, "data": {"name": "shapes", "images": 1000}, "schedule": {"steps": 100, "batch": 50, **schedule}}}  # fmt: skip


def grid(root, rows, seeds, host="node1", **more):
    """Rows by name: (mean, FLOPs, arguments of the schedule); None in place of these: without pre-training."""
    store, written = Store(root), []
    for name, (mean, flops, schedule) in rows.items():
        runs = {}
        for seed in seeds:
            spec = {"kind": "finetune", "seed": seed, "row": name, "parents": {}}
            if schedule is not None:
                trained = spec_of(name, seed, **schedule)
                runs[str(seed)] = {"pretrain": run_name(trained)}
                spec["parents"] = {"encoder": run_name(trained)}
                store.run(run_name(trained)).create(trained)
                finish(store.run(run_name(trained)), {"metrics": {}, "weights_sha256": name}, host=host)
            run = store.run(run_name(spec))
            run.create(spec)
            finish(run, evaluation(FINETUNE, mean + 0.1 * seed + 0.01 * (seed * len(name)) % 0.05), host=host)
            runs.setdefault(str(seed), {})["finetune"] = run.name
        written.append(
            {"name": name, "label": name.upper(), "runs": runs, "flops": {"total": flops, "external": False}}
        )
    write_grid(store, written, [column(FINETUNE, "Fine-tune")], list(seeds), **more)
    return store


def board(*stores, origins=(HERE, THERE)):
    return leaderboard(
        [(analyze(store, "demo", "tiny"), origin) for store, origin in zip(stores, origins, strict=False)]
    )


ROWS = {"beit": (60.0, 4e12, {}), "mae": (55.0, 2e12, {}), "scratch": (50.0, 0.0, None)}


def test_rows_of_one_budget_are_ranked_together_with_the_baseline(tmp_path):
    ((group, entries),) = board(grid(tmp_path / "one", ROWS, range(4))).groups.items()
    assert group.budget == "5,000 images seen in pre-training"
    assert [(entry.label, entry.rank, entry.images, entry.epochs) for entry in entries] == [
        ("BEIT", 1, 5000, 5.0), ("MAE", 2, 5000, 5.0), ("SCRATCH", 3, 0, None)]  # fmt: skip
    assert entries[0].summary.n == 4


def test_rows_of_equal_flops_share_a_budget_and_others_do_not(tmp_path):
    rows = {"beit": (60.0, 4e12, {}), "mae": (55.0, 4.1e12, {"steps": 190}), "long": (62.0, 9e12, {"steps": 300})}
    groups = board(grid(tmp_path / "one", rows, range(3))).groups
    assert {group.budget: [entry.label for entry in entries] for group, entries in groups.items()} == {
        "4 T FLOPs of training, within 5%": ["BEIT", "MAE"], "15,000 images seen in pre-training": ["LONG"]}  # fmt: skip


def test_a_row_that_two_laboratories_computed_appears_once_with_the_seeds_of_both(tmp_path):
    here = grid(tmp_path / "here", ROWS, [0, 1])
    there = grid(tmp_path / "there", {"beit": ROWS["beit"], "other": (57.0, 4e12, {})}, [1, 2])
    found = board(here, there)
    (entries,) = found.groups.values()
    assert sorted((entry.label, entry.summary.n) for entry in entries) == [
        ("BEIT", 3), ("MAE", 2), ("OTHER", 2), ("SCRATCH", 2)]  # fmt: skip
    beit = next(entry for entry in entries if entry.label == "BEIT")
    assert [origin.place for _, origin in beit.grids] == ["here", "there"]
    assert found.notices == []
    page = leaderboard_page(found)
    records = {name: origin for entry in entries for name, origin in entry.runs.items()}
    assert all((f'href="../runs/{name}/"' in page) is (origin is HERE) for name, origin in records.items())


def test_two_results_of_one_run_are_both_shown_and_said(tmp_path):
    stores = [grid(tmp_path / name, {"beit": (mean, 4e12, {})}, [0, 1]) for name, mean in (("a", 60.0), ("b", 61.0))]
    found = board(*stores)
    (entries,) = found.groups.values()
    assert [entry.label for entry in entries] == ["BEIT", "BEIT"]
    assert found.notices == ["BEIT: there and here have different results of the same run; both are shown"]


def test_other_data_or_another_protocol_is_another_ranking(tmp_path):
    store, rows = Store(tmp_path), []
    for name, data in (("beit", "d" * 12), ("mae", "e" * 12)):
        runs = [finish(planned(store, kind, name), evaluation(base, 60.0, data={"name": "shapes", "fingerprint": data})).name
                for kind, base in (("finetune", FINETUNE), ("knn", KNN))]  # fmt: skip
        write_grid(store, [{"name": name, "runs": {"0": dict(zip(("finetune", "knn"), runs, strict=True))}}],
                   [column(FINETUNE, "Fine-tune"), column(KNN, "kNN")], [0])  # fmt: skip
        rows.append((analyze(store, "demo", "tiny"), HERE))
    assert [len(entries) for entries in leaderboard(rows).groups.values()] == [1] * 4


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.heads, self.requests = [], [], []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.tags.append(tag)
        if tag == "th":
            self.heads.append("")
        self.requests += [given[name] for name in ("src", "srcset") if name in given] + [tag] * (tag == "link")

    def handle_data(self, data):
        if self.heads:
            self.heads[-1] += data


def test_the_page_is_self_contained_accessible_and_inert(tmp_path):
    store = grid(tmp_path / "one", {"</script><img src=x onerror=alert(1)>'\"": (60.0, 4e12, {}), **ROWS}, [0, 1])
    text = leaderboard_page(board(store), ["a <b>refused</b> grid"])
    page = Page()
    page.feed(text)
    assert page.requests == []
    assert page.tags.count("img") == page.tags.count("b") == 0
    assert page.tags.count("script") == page.tags.count("main") == 1
    assert page.tags.count("caption") == page.tags.count("table") == 4
    assert all(head.strip() for head in page.heads)
    assert html.escape("</SCRIPT><IMG SRC=X ONERROR=ALERT(1)>'\"") in text
    assert text.count("data-row") == 387 + 4 + 2  # and two in the script


def test_published_numbers_are_all_there_with_citations_and_in_no_ranking(tmp_path):
    text = leaderboard_page(board(grid(tmp_path / "one", ROWS, [0, 1])))
    measured, published = text.split('<h2 id="published">')
    assert published.count("<tr data-row") == 387
    assert published.count("not read in its source") == 16
    assert "arXiv" not in measured.split('<h2 id="costs">')[0]
    assert "3.5 times shorter" in measured
    assert re.search(r"MAE</th>.*800 M", measured)  # 4e12 FLOPs of 5,000 images stand beside it


@settings(max_examples=10)
@given(st.sets(st.integers(0, 9)), st.sets(st.sampled_from(["spec.json", "result.json", "cost.json"])))
def test_any_subset_of_records_gives_every_form_of_the_table_and_a_leaderboard_or_a_refusal(
    tmp_path_factory, removed, files
):
    store = grid(tmp_path_factory.mktemp("subset"), ROWS, [0, 1])
    for index, run in enumerate(store.all_runs()):
        for file in files if index in removed else ():
            (run.path / file).unlink(missing_ok=True)
    with contextlib.suppress(UserError):
        table = tabulate(analyze(store, "demo", "tiny"))
        texts = markdown(table), latex(table), page(table, [])
        assert all(row.label in text for row in table.grid.rows for text in texts)
        assert "<main>" in leaderboard_page(board(store))


def test_two_folders_become_one_leaderboard_by_one_command(tmp_path):
    for name, seeds in (("here", [0, 1]), ("there", [1, 2])):
        grid(tmp_path / name, {"beit": ROWS["beit"]}, seeds)
    said = mimbench("report", tmp_path / "here", tmp_path / "there", ROOT / "results" / "published" / "ablations.tiny")
    assert said.returncode == 0, said.stderr
    assert said.stdout.splitlines()[-1] == f"Leaderboard: {tmp_path / 'here' / 'reports' / 'index.html'}"
    page = (tmp_path / "here" / "reports" / "index.html").read_text()
    assert "3 grids" in page
    assert "../../there/reports/demo.tiny/index.html" in page
    assert (tmp_path / "there" / "reports" / "demo.tiny" / "index.html").exists()
    refused = mimbench("report", f"{tmp_path}/nowhere")
    assert (refused.returncode, "nowhere: no results there" in refused.stderr) == (2, True)


PERSON = """<script>
const press = name => [...document.querySelectorAll(".group thead button")].find(button => button.textContent === name).click();
const labels = () => [...document.querySelector(".group tbody").rows].map(row => row.cells[1].firstChild.data).join(" ");
const said = [];
press("Value"); said.push(labels());
press("Value"); said.push(labels());
press("Row"); said.push(labels());
form.elements.text.value = "mae 16x16 nothing"; form.elements.text.dispatchEvent(new Event("input", {bubbles: true}));
said.push(document.getElementById("shown").textContent);
form.elements.text.value = ""; form.elements.encoder.value = "ViT-L/16"; filter();
said.push([...document.querySelectorAll(".group:not([hidden])")].length, document.querySelectorAll("[aria-sort]").length);
document.title = said.join("; ");
</script>"""


@pytest.mark.browser
def test_a_person_sorts_and_filters_in_chromium(tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on this machine (Debian: apt install chromium)")
    page = tmp_path / "index.html"
    page.write_text(
        leaderboard_page(board(grid(tmp_path / "one", ROWS, [0, 1]))).replace("</body>", PERSON + "</body>")
    )
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
               "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]  # fmt: skip
    dumped = subprocess.run([*command, page.as_uri()], check=True, timeout=120, capture_output=True, text=True,
                            env={**os.environ, "HOME": str(tmp_path)})  # fmt: skip
    (said,) = re.findall("<title>(.*)</title>", dumped.stdout)
    assert said == "SCRATCH MAE BEIT; BEIT MAE SCRATCH; BEIT MAE SCRATCH; 0 of 390 rows shown; 1; 1"
