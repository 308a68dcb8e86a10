"""A few sentences on what of a table is significant, and what is not known."""

from __future__ import annotations

import statistics

from mimbench.report.analysis import Cell
from mimbench.report.cells import MARKS
from mimbench.report.collect import Grid
from mimbench.report.format import count, interval, number, p_text
from mimbench.report.promises import in_a_sentence
from mimbench.report.statistics import Comparison
from mimbench.report.table import Table

Compared = tuple[Cell, Comparison]
MOST_NAMES = 4


def findings(table: Table) -> list[str]:
    """What was promised; how many differences are significant; the pre-specified one; the largest, or what could have been seen."""
    grid = table.grid
    compared = [(cell, cell.comparison) for cell in table.cells.values() if cell.comparison]
    tested = [(cell, found) for cell, found in compared if found.p is not None]
    if not tested:
        waiting = "No two rows have been compared yet." if not compared else ""
        few = f"With one {grid.unit} per row no difference can be tested: the order of the rows may be chance."
        return [waiting or few if not compared or any(found.n == 1 for _, found in compared)
                else "No difference could be tested: rows differ by the same amount in every seed."]  # fmt: skip
    adjusted = [(cell, found) for cell, found in tested if not found.primary]
    significant = [(cell, found) for cell, found in adjusted if found.verdict in MARKS]
    sentences = [in_a_sentence(table)]
    sentences += [_count(adjusted, significant, grid)] if adjusted else []
    sentences += [_primary(cell, found, grid) for cell, found in tested if found.primary]
    if significant:
        sentences.append(_throughout(adjusted, grid) or _most_certain(significant))
    elif adjusted:
        sentences.append(_what_could_be_seen(adjusted))
    return list(filter(None, sentences))


def _count(tested: list[Compared], significant: list[Compared], grid: Grid) -> str:
    higher = sum(found.verdict == "higher" for _, found in significant)
    how = f"{len(significant)} ({higher} higher, {len(significant) - higher} lower)" if significant else "none"
    are = "is" if len(significant) <= 1 else "are"
    pairs = sorted({found.n for _, found in tested})
    seeds = count(pairs[0], grid.unit) if len(pairs) == 1 else f"{pairs[0]} to {count(pairs[-1], grid.unit)}"
    return (
        f"Of {count(len(tested), 'tested difference')} from {grid.compared_with}, {how} {are} significant "
        f"(paired t-tests over {seeds}, p < 0.05, Holm-adjusted per column)."
    )


def _primary(cell: Cell, found: Comparison, grid: Grid) -> str:
    unit = cell.column.unit
    verdict = found.verdict if found.verdict in MARKS else "not significantly different"
    return (
        f"Pre-specified: {cell.row.label} against {grid.row(cell.row.reference).label} in {cell.column.label} is {verdict}: "
        f"{number(found.difference, unit, sign=True)} (95 % CI {interval(found.low, found.high, unit, sign=True)}, "
        f"p {_relation(found.p)}, unadjusted)."
    )


def _throughout(tested: list[Compared], grid: Grid) -> str:
    """The rows that are significantly higher, or lower, wherever they were tested, in more than one column."""
    verdicts: dict[str, list[str]] = {}
    for cell, found in tested:
        verdicts.setdefault(cell.row.name, []).append(found.verdict)
    said = []
    for wanted in MARKS:
        rows = [grid.row(name).label for name, own in verdicts.items() if len(own) > 1 and set(own) == {wanted}]
        if rows:
            named = rows if len(rows) <= MOST_NAMES + 1 else [*rows[:MOST_NAMES], f"{len(rows) - MOST_NAMES} more"]
            said.append(f"significantly {wanted} in every column so tested: {', '.join(named)}")
    return f"{_upper('; '.join(said))}." if said else ""


def _most_certain(significant: list[Compared]) -> str:
    cell, found = min(significant, key=lambda item: item[1].p_holm or 0.0)
    unit = cell.column.unit
    return (
        f"Most certain: {cell.row.label} in {cell.column.label}, {number(found.difference, unit, sign=True)} "
        f"(95 % CI {interval(found.low, found.high, unit, sign=True)}, p {_relation(found.p_holm)})."
    )


def _what_could_be_seen(tested: list[Compared]) -> str:
    """Not significant does not mean equal: how wide the intervals are, in the first column that has any."""
    column = next(cell.column for cell, found in tested if found.p is not None)
    halves = [(found.high - found.low) / 2 for cell, found in tested
              if cell.column == column and found.low is not None and found.high is not None]  # fmt: skip
    return (
        f"That does not mean equal: in {column.label} the median 95 % CI of a difference is "
        f"± {number(statistics.median(halves), column.unit)}."
    )


def _relation(p: float | None) -> str:
    text = p_text(p)
    return f"< {text[1:]}" if text.startswith("<") else f"= {text}"


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]
