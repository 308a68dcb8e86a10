"""BibTeX of the sources of a row's published numbers: what the data says of them, nothing more."""

from __future__ import annotations

import re

from mimbench.inert import for_latex
from mimbench.report.collect import Row
from mimbench.report.published import PaperColumn

ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})(v\d+)?")


def bibtex(paper: PaperColumn | None, row: Row) -> str:
    """One @misc per source, without authors: the published table does not hold them."""
    numbers = {} if paper is None else {p["source"]: None for (name, _), p in paper.numbers.items() if name == row.name}
    return "\n\n".join(_entry(source) for source in numbers)


def _entry(source: str) -> str:
    found = ARXIV.search(source)
    title = ARXIV.sub("", source).strip(" ,:") or source
    key = found.group(1) if found else "-".join(re.findall(r"\w+", title.lower())[:4])
    lines = [f"  title = {{{for_latex(title)}}}"]
    if found:
        lines += [f"  eprint = {{{found.group(1)}{found.group(2) or ''}}}", "  archivePrefix = {arXiv}",
                  f"  url = {{https://arxiv.org/abs/{found.group(1)}{found.group(2) or ''}}}"]  # fmt: skip
    return f"@misc{{{key},\n" + ",\n".join(lines) + "\n}"
