"""Text that others wrote, made harmless: one function for each form that it is put into."""

from __future__ import annotations

import re
from typing import Any

CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")  # all but tab and newline

FORMULA = r"[=@\t\r]|[+-](?! |[\d.]+(e[+-]?\d+)?$)"  # neither a number nor a label such as `+ more blocks`


def unprintable(text: str) -> str | None:
    """The first character that a terminal would obey, that turns text around, or that UTF-8 does not have."""
    found = CONTROL.search(text)
    return found.group() if found else None


def for_terminal(text: str) -> str:
    """With control characters spelled out; tabs and newlines stay."""
    return CONTROL.sub(lambda found: found.group().encode("unicode_escape").decode(), text)


def all_for_terminal(value: Any) -> Any:
    """Every string of a JSON value: a record may be another's."""
    if isinstance(value, dict):
        return {all_for_terminal(key): all_for_terminal(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [all_for_terminal(inner) for inner in value]
    return for_terminal(value) if isinstance(value, str) else value


def one_line(text: str) -> str:
    return " ".join(text.split())


def for_csv(cell: object) -> object:
    """Spreadsheets compute what begins like a formula; a leading apostrophe makes it text."""
    return f"'{cell}" if isinstance(cell, str) and re.match(FORMULA, cell) else cell


def for_markdown(text: str) -> str:
    """Without HTML: `p < 0.05` stays."""
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text)


LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "↑": r"$\uparrow$", "↓": r"$\downarrow$",
    "−": "$-$", "–": "--", "<": "$<$", ">": "$>$", "≤": r"$\leq$", "×": r"$\times$",
})  # fmt: skip


def for_latex(text: str) -> str:
    """On one line: an empty one would end a caption's paragraph."""
    return one_line(text).translate(LATEX)
