"""The page as a reader uses it: keyboard, filter, reference, drawer, link; on a desk and on a phone."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import synthetic_grid as synthetic
from chromium import browser, find_chromium
from synthetic_grid import FINETUNE, column, evaluation, finish, planned, write_grid

from mimbench.report.analysis import analyze
from mimbench.report.axis_curves import axis_curves
from mimbench.report.build import build_report
from mimbench.report.figures import draw
from mimbench.report.findings import findings
from mimbench.report.page import page
from mimbench.report.page.data import as_script
from mimbench.report.pictures import pictures
from mimbench.report.shown import stem
from mimbench.report.table import table_csv, tabulate
from mimbench.store.files import read_json
from mimbench.store.records import write_record
from mimbench.store.results import Store

HOSTILE = "</script><img src=x onerror=alert(1)>\"'=1+1 $HOME"
SHOWN = "[...document.querySelectorAll('#main-table tbody tr')].filter(row => !row.hidden).map(row => row.dataset.row)"
BROWSER = [pytest.mark.browser, pytest.mark.skipif(find_chromium() is None, reason="no Chromium on this machine")]
AXE = os.environ.get("MIMBENCH_AXE")  # axe.min.js, from npm
PLAIN_CHECKS = """[
  document.querySelectorAll('main').length !== 1 && 'one main',
  [...document.querySelectorAll('th')].some(th => !th.textContent.trim()) && 'an empty header',
  [...document.querySelectorAll('.scroll')].some(e => e.tabIndex !== 0 || !e.ariaLabel) && 'a scrollable region out of reach',
  [...document.querySelectorAll('input, select')].some(e => !e.ariaLabel && !e.labels.length) && 'a control without a label',
  new Set([...document.querySelectorAll('[id]')].map(e => e.id)).size !== document.querySelectorAll('[id]').length && 'an id twice',
  document.documentElement.scrollWidth > innerWidth && 'wider than the screen',
  [...document.querySelectorAll('figure svg text')].some(t => t.getBoundingClientRect().width &&
    parseFloat(getComputedStyle(t).fontSize) * t.ownerSVGElement.getScreenCTM().a < 9) && 'small letters in a figure',
].filter(Boolean)"""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A grid like a real one, one of whose labels is hostile."""
    store = synthetic.demo(tmp_path_factory.mktemp("page") / "results")
    path = store.grid_path("demo", "tiny")
    grid = {key: value for key, value in read_json(path).items() if key != "sha256"}
    grid["rows"][1]["label"] = HOSTILE
    write_record(path, grid)
    return (build_report(store, "demo", "tiny")[0] / "index.html").as_uri()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("chromium")) as made:
        yield made


@pytest.fixture
def opened(chromium, address):
    chromium.screen(1400)
    chromium.open("about:blank")
    chromium.open(address)
    yield chromium
    assert chromium.complaints() == []


def choose(chromium, control, value):
    chromium.evaluate(f"{{ const c = document.getElementById('{control}'); c.value = {json.dumps(value)}; "
                      "c.dispatchEvent(new Event('input')); c.dispatchEvent(new Event('change')); }")  # fmt: skip


class TestInChromium:
    pytestmark = BROWSER

    def test_a_column_is_sorted_by_keyboard(self, opened):
        opened.evaluate("document.querySelector('th[data-column=finetune] button').focus()")
        opened.press("Enter")
        heading = "document.querySelector('th[data-column=finetune]').ariaSort"
        assert (opened.evaluate(heading), opened.evaluate(SHOWN)[0]) == ("descending", "beit")
        opened.press(" ")
        assert (opened.evaluate(heading), opened.evaluate(SHOWN)[0]) == ("ascending", "scratch")

    def test_a_filter_hides_rows_and_dims_them_in_the_figures(self, opened):
        choose(opened, "filter-significance", "lower")
        shown = opened.evaluate(SHOWN)
        assert "scratch" in shown
        assert "no_blockwise" not in shown
        dimmed = opened.evaluate("[...new Set([...document.querySelectorAll('.dimmed')].map(e => e.dataset.artist))]")
        assert set(dimmed) == {row for row in synthetic.ROWS if row not in shown}
        choose(opened, "filter-significance", "")
        choose(opened, "filter-text", "pixels random")
        assert opened.evaluate(SHOWN) == ["neither"]

    def test_another_reference_changes_every_difference_and_is_called_exploratory(self, opened):
        small = "document.querySelector('tr[data-row=beit]').cells[1].querySelector('small')?.textContent ?? ''"
        assert opened.evaluate(small) == ""
        choose(opened, "choose-reference", "scratch")
        assert opened.evaluate(small).startswith("+")
        assert opened.evaluate("document.getElementById('exploratory').offsetHeight") > 0
        assert opened.evaluate("document.getElementById('compared-with').textContent") == "Scratch"
        choose(opened, "choose-reference", "")
        assert opened.evaluate(small) == ""

    def test_a_row_opens_into_a_drawer_and_escape_closes_it(self, opened):
        opened.evaluate("document.querySelector('tr[data-row=no_tokens] a.open').focus()")
        opened.press("Enter")
        text = opened.evaluate("document.getElementById('drawer').innerText")
        assert "--only no_tokens" in text
        assert "Pre-training loss" in text
        assert opened.evaluate("document.querySelectorAll('#drawer a[href^=\"../../runs/pretrain-\"]').length") == 3
        copied = "FORMS.{}([['Row', 'x'], ['a_b|=1', '<b>']])"
        assert opened.evaluate(copied.format("LaTeX")).splitlines()[4] == r"a\_b|=1 & $<$b$>$ \\"
        assert opened.evaluate(copied.format("Markdown")).splitlines()[2] == r"| a_b\|=1 | &lt;b> |"
        assert opened.evaluate("FORMS.CSV([['=1+1'], ['− tokens, \"x\"']])") == '\'=1+1\n"− tokens, ""x"""'
        opened.evaluate(
            "new Promise(done => { addEventListener('hashchange', done); location.hash += '&reference=scratch'; })"
        )
        assert "Difference from Scratch" in opened.evaluate("document.getElementById('drawer').innerText")
        opened.press("Escape")
        assert not opened.evaluate("document.getElementById('drawer').open")
        assert opened.evaluate("document.activeElement.className") == "open"

    def test_a_link_opens_the_same_view(self, opened, address):
        for row in ("beit", "scratch"):
            opened.evaluate(f"document.querySelector('tr[data-row={row}] input').click()")
        choose(opened, "choose-reference", "neither")
        opened.evaluate("document.querySelector('#choose-columns input[value=knn]').click()")
        opened.evaluate("document.querySelector('th[data-column=finetune] button').click()")
        fragment = opened.evaluate("location.hash")
        view = "[document.querySelector('main').innerText, document.getElementById('choose-reference').value]"
        before = opened.evaluate(view)
        opened.open("about:blank")
        opened.open(address + fragment)
        assert opened.evaluate(view) == before
        assert "BEiT against Scratch" in before[0]
        assert "kNN" not in opened.evaluate("document.querySelector('#main-table').innerText")

    def test_a_hostile_label_is_text_everywhere(self, opened):
        opened.evaluate("document.querySelector('tr[data-row=no_blockwise] a.open').click()")
        for place in ("tr[data-row=no_blockwise] a.open", "#drawer-title"):
            assert opened.evaluate(f"document.querySelector('{place}').textContent") == HOSTILE
        assert opened.evaluate("document.querySelectorAll('img').length") == 0

    @pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
    @pytest.mark.parametrize("width", [390, 820, 1400])
    def test_it_can_be_read_and_reached(self, opened, address, width, dark):
        opened.screen(width, dark=dark)
        opened.open("about:blank")
        opened.open(address)
        assert opened.evaluate(PLAIN_CHECKS) == []
        if AXE:
            opened.evaluate(Path(AXE).read_text())
            found = opened.evaluate("axe.run().then(r => r.violations.filter(v => ['serious', 'critical'].includes(v.impact))"
                                    ".map(v => `${v.id}: ${v.nodes.map(n => n.html).slice(0, 3)}`))")  # fmt: skip
            assert found == []

    def test_two_thousand_rows_are_sorted_in_200_milliseconds(self, chromium, tmp_path):
        store = synthetic.simple(Store(tmp_path), {"row0": [60.0, 61.0, 62.0]})
        path = store.grid_path("demo", "tiny")
        grid = {key: value for key, value in read_json(path).items() if key != "sha256"}
        row = grid["rows"][0]
        grid["rows"] = [{**row, "name": f"row{index}", "label": f"Row {index}"} for index in range(2000)]
        write_record(path, grid)
        file = tmp_path / "index.html"
        file.write_text(page(tabulate(analyze(store, "demo", "tiny")), []))
        chromium.open(file.as_uri())
        chromium.call("Performance.enable", timeDomain="threadTicks")  # whatever else this machine does meanwhile
        before = chromium.busy()
        chromium.evaluate(
            "document.querySelector('th[data-column=finetune] button').click(); document.body.offsetHeight"
        )
        assert 0 < chromium.busy() - before < 0.2
        assert chromium.evaluate(SHOWN) == [f"row{index}" for index in range(300)]
        chromium.evaluate("document.getElementById('show-all').click()")
        assert len(chromium.evaluate(SHOWN)) == 2000


def test_json_in_the_page_cannot_end_its_element():
    text = as_script({"label": HOSTILE + "<!--"})
    assert "<" not in text
    assert json.loads(text) == {"label": HOSTILE + "<!--"}


def said(store, numbers, primary=None):
    return findings(tabulate(analyze(synthetic.simple(store, numbers, primary), "demo", "tiny")))


@pytest.mark.parametrize(
    ("numbers", "sentences"),
    [
        ({"a": [60.0], "b": [50.0]}, ["With one seed per row no difference can be tested: the order of the rows may be chance."]),
        ({"a": [60.0, 61.0, 59.0], "b": [60.1, 60.0, 60.2]}, ["Of 1 tested difference from A, none is significant", "not mean equal"]),
        ({"a": [60.0, 61.0, 62.0], "b": [50.0, 51.1, 52.0]}, ["1 (0 higher, 1 lower) is significant", "Most certain: B"]),
        ({"a": [60.0, 61.0, 62.0, 60.5], "b": [50.0, 51.1, 52.0, 50.0], "late": [53.0, 54.2]}, ["over 2 to 4 seeds", "Most certain: B"]),
    ],
    ids=["one seed", "nothing", "one lower", "a row begun later"],
)  # fmt: skip
def test_the_findings_say_what_is_significant_and_no_more(tmp_path, numbers, sentences):
    found = said(Store(tmp_path), numbers)
    assert len(found) == len(sentences)
    for text, wanted in zip(found, sentences, strict=True):
        assert wanted in text


def test_the_findings_name_the_pre_specified_comparison(tmp_path):
    found = said(
        Store(tmp_path), {"a": [60.0, 61.0, 62.0], "b": [50.0, 51.1, 52.0]}, {"row": "b", "protocol": "finetune"}
    )
    assert [text.partition(" in ")[0] for text in found] == ["Pre-specified: B against A"]
    assert "is lower: −9.97" in found[0]


def test_an_axis_is_drawn_as_curves_one_for_each_choice_of_the_others(tmp_path):
    store, rows = Store(tmp_path), []
    for target in ("dvae", "pixels"):
        for ratio in (0.2, 0.4, 0.6):
            runs = {}
            for seed in range(3):
                run = finish(
                    planned(store, "finetune", target, ratio, seed), evaluation(FINETUNE, 50 + 10 * ratio + seed)
                )
                runs[str(seed)] = {"finetune": run.name}
            point = {"ratio": ratio, "type": target}
            rows.append({"name": f"m[{ratio},{target}]", "label": f"m (ratio={ratio})", "runs": runs, "point": point})
    write_grid(store, rows, [column(FINETUNE, "Fine-tune")], [0, 1, 2])
    figure = axis_curves(analyze(store, "demo", "tiny"))
    assert figure is not None
    (axes,) = figure.axes
    assert [list(line.get_xdata()) for line in axes.lines] == [[0.2, 0.4, 0.6]] * 2
    assert axes.lines[0].get_ydata() == pytest.approx([53, 55, 57])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["m, type=dvae", "m, type=pixels"]
    assert len(axes.collections) == 2  # bands


def test_rows_are_drawn_against_their_flops(tmp_path):
    store = synthetic.simple(Store(tmp_path), {"a": [60.0, 61.0], "b": [50.0, 52.0], "c": [40.0, 41.0]})
    path = store.grid_path("demo", "tiny")
    grid = {key: value for key, value in read_json(path).items() if key != "sha256"}
    for row, total in zip(grid["rows"], (1e12, 2e12, 0), strict=True):
        row["flops"] = {"total": total, "external": False}
    write_record(path, grid)
    analysis = analyze(store, "demo", "tiny")
    (drawing,) = [drawing for drawing in draw(analysis) if drawing.name == "compute"]
    assert "row:c" not in drawing.svg  # was not trained
    assert "row:b" in drawing.narrow
    assert ",2000000000000," in table_csv(analysis)


def test_pictures_beside_a_report_are_found_by_row(tmp_path):
    store = synthetic.simple(Store(tmp_path), {"a": [60.0], "a.b": [61.0], "a/c": [62.0]})
    folder = tmp_path / "report"
    (folder / "pictures").mkdir(parents=True)
    for name in ("a.masks.png", "a.b.masks.png", "a.b.token_map.png", f"{stem('a/c')}.masks.png"):
        (folder / "pictures" / name).write_bytes(name.encode())
    found = pictures(analyze(store, "demo", "tiny").grid, folder)
    assert {row: [(p.caption, p.png) for p in own] for row, own in found.items()} == {
        "a": [("masks", b"a.masks.png")],
        "a.b": [("masks", b"a.b.masks.png"), ("token map", b"a.b.token_map.png")],
        "a/c": [("masks", b"a%2Fc.masks.png")],
    }
