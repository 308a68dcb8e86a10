"""Write a grid's report: tables first, the page last."""

from __future__ import annotations

from pathlib import Path

from mimbench.report.analysis import Analysis, analyse
from mimbench.report.costs import costs_csv
from mimbench.report.tables import latex, markdown, tidy_csv
from mimbench.store.files import write_atomically
from mimbench.store.results import Store


def build_report(store: Store, name: str, scale: str) -> Path:
    """Everything under results/reports/<name>.<scale>/; returns that folder."""
    folder = store.report_folder(name, scale)
    write_report(analyse(store, name, scale), folder)
    return folder


def write_report(analysis: Analysis, folder: Path, *, runs_at: str | None = "../../runs") -> None:
    """Each file is replaced as a whole; the page comes last, and figures that no longer apply go."""
    from mimbench.report.figures import draw
    from mimbench.report.page import page

    write_atomically(folder / "table.md", markdown(analysis))
    write_atomically(folder / "table.csv", tidy_csv(analysis))
    write_atomically(folder / "table.tex", latex(analysis))
    write_atomically(folder / "costs.csv", costs_csv(analysis.grid))
    drawings = list(draw(analysis))
    for drawing in drawings:
        write_atomically(folder / f"{drawing.name}.svg", drawing.svg)
        write_atomically(folder / f"{drawing.name}.png", drawing.png)
    write_atomically(folder / "index.html", page(analysis, drawings, runs_at=runs_at))
    current = {drawing.name for drawing in drawings}
    for path in [*folder.glob("*.svg"), *folder.glob("*.png")]:
        if path.stem not in current:
            path.unlink(missing_ok=True)
