"""The notes beside a table: how to read its numbers, and the sources of the paper's."""

from __future__ import annotations

from mimbench.protocols import completed
from mimbench.report.analysis import Analysis
from mimbench.report.collect import Grid
from mimbench.report.compute import flops_note
from mimbench.report.format import count
from mimbench.report.published import PaperColumn

REGULARIZERS = {"mixup": "mixup", "cutmix": "cutmix", "rand_augment": "RandAugment", "erasing": "random erasing",
                "drop_path": "drop path", "label_smoothing": "label smoothing", "ema": "weight averaging"}  # fmt: skip

LONGEST = 22  # characters of a reference's name in a legend of one line


def legend(grid: Grid) -> list[str]:
    """What the numbers, intervals and marks mean."""
    primary = ""
    if grid.primary:
        row, column = grid.row(grid.primary["row"]), grid.label(grid.primary["protocol"])
        primary = f"; {row.label} against {grid.row(row.reference).label}, {column}: pre-specified, unadjusted"
    drives = "A seed drives tokenizer, pre-training and evaluation"
    if grid.nested:
        drives = (
            f"A replicate is one tokenizer with {count(grid.nested['pretraining'], 'pre-training')} of "
            f"{count(grid.nested['evaluation'], 'evaluation')} each; its numbers share runs, so their mean counts once"
        )
    return [
        f"Each number is the mean over {grid.unit}s ± 95 % CI (half-width of the t-interval). {drives}; "
        "data and splits stay fixed, so the interval covers the randomness of training, not the choice of images.",
        f"↑ and ↓: significantly higher or lower than {grid.compared_with} (two-sided paired t-test over {grid.unit}s, "
        f"p < 0.05, Holm-adjusted per column{primary}).",
        f"No mark: not significant, which does not mean equal. With one {grid.unit} there is no confidence interval and no test.",
        *([grid.searched] if grid.searched else []),
        *_regularizers_off(grid),
        *flops_note(grid),
    ]


def short_legend(grid: Grid) -> str:
    """One line, for the terminal."""
    against = grid.compared_with if len(grid.compared_with) <= LONGEST else "its reference"
    return f"± 95 % CI over {grid.unit}s; ↑ ↓ differs from {against} (paired t, Holm, p < 0.05)"


def _regularizers_off(grid: Grid) -> list[str]:
    """One sentence on the columns that train a whole network."""
    found = []
    for column in grid.columns:
        results = (record.result for record in grid.records.values() if record.kind == column.protocol)
        settings = next((result["protocol"]["settings"] for result in results if result is not None), None)
        known = {} if settings is None else completed(column.protocol, settings)
        off = [name for key, name in REGULARIZERS.items() if key in known and not known[key]]
        if off:
            found.append(f"{column.label} ({', '.join(off)})")
    return [f"Regularizers that are off: {'; '.join(found)}."] if found else []


def one_seed_warning(analysis: Analysis) -> str:
    """If no cell has more than one of what the statistics count."""
    if any(len(cell.replicates) > 1 for cell in analysis.cells.values()):
        return ""
    return f"One {analysis.grid.unit}: no confidence interval, no test. The order of the rows may be chance."


def paper_note(paper: PaperColumn | None) -> str:
    if paper is None:
        return ""
    sources = " ".join(f"[{number}] {source}." for number, source in enumerate(paper.sources, 1))
    return (
        "The paper's numbers come from other data, models and budgets. They are shown for orientation and enter no mean "
        f"and no test. {sources}"
    )
