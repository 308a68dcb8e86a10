"""Names and notes of others are text, whatever form they are put into."""

from __future__ import annotations

import csv
import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_grid import demo

from mimbench.inert import for_csv, for_latex, for_markdown, for_terminal, one_line, unprintable
from mimbench.report.build import build_report
from mimbench.store.files import read_json
from mimbench.store.records import write_record

HOSTILE = "=HYPERLINK(1)\x1b[31m<script>alert(1)</script>\n\n\\input{/etc/passwd}|x"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The report of a grid whose record says hostile things, as records of others may."""
    store = demo(tmp_path_factory.mktemp("hostile") / "results")
    path = store.grid_path("demo", "tiny")
    grid = read_json(path)
    grid["title"], grid["note"] = HOSTILE, HOSTILE
    for row in grid["rows"]:
        row["label"] = f"={row['name']} {HOSTILE}"
    write_record(path, {key: value for key, value in grid.items() if key != "sha256"})
    folder, _ = build_report(store, "demo", "tiny")
    return folder


def test_a_csv_holds_no_formula(report):
    for path in report.glob("*.csv"):
        for line in csv.reader(io.StringIO(path.read_text())):
            assert not any(cell.startswith(("=", "@")) for cell in line)
    assert "'=" in (report / "table.csv").read_text()


def test_markdown_and_the_page_hold_no_html_of_others(report):
    assert "<script" not in (report / "table.md").read_text()
    assert "<script>alert" not in (report / "index.html").read_text()


def test_a_row_of_a_markdown_table_is_one_line(report):
    lines = [line for line in (report / "table.md").read_text().splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in lines)


def test_latex_holds_neither_commands_nor_empty_lines(report):
    text = (report / "table.tex").read_text()
    assert "\\input" not in text
    assert "\n\n" not in text


def test_a_table_on_a_terminal_obeys_nothing(report, capsys):
    from mimbench.cli.commands import main

    main(["report", "--results", str(report.parents[1])])
    out = capsys.readouterr()
    assert "\x1b" not in out.out + out.err
    assert "\\x1b[31m" in out.out


def test_an_error_on_a_terminal_obeys_nothing(capsys):
    from mimbench.cli.commands import main

    assert main(["plan", "a\x1b[2Jb"]) == 2
    assert "\x1b" not in (error := capsys.readouterr().err)
    assert "a\\x1b[2Jb" in error


@given(st.text(st.characters(codec=None), max_size=20))
def test_terminal_text_has_no_control_characters_and_can_be_encoded(text):
    made = for_terminal(text)
    assert unprintable(made) is None
    made.encode()
    assert unprintable(text) is not None or made == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_in_a_csv_stay_numbers(number):
    for form in ("{:.7g}", "{!r}", "{:+.2f}"):
        assert for_csv(form.format(number)) == form.format(number)


@pytest.mark.parametrize("text", ["+ recover 100 %", "− visual tokens", "- a dash", "BEiT", "1=1"])
def test_labels_that_are_no_formulas_stay(text):
    assert for_csv(text) == text


@pytest.mark.parametrize("text", ["=1+1", "@SUM(1)", "\t=1", "+1+cmd", "-2+3"])
def test_formulas_become_text(text):
    assert for_csv(text) == f"'{text}"


def test_markdown_keeps_what_only_looks_like_html():
    assert for_markdown("p < 0.05, <0.0001, **a**") == "p < 0.05, <0.0001, **a**"
    assert for_markdown("<b> </b> <!-- --> <?x?>") == "&lt;b> &lt;/b> &lt;!-- --> &lt;?x?>"


@given(st.text(max_size=20))
def test_latex_is_one_line_without_bare_specials(text):
    made = for_latex(text)
    assert one_line(made) == made
    assert not re.search(r"(?<!\\)[%&#_]", made)
