"""Write a grid's report: tables first, the page last."""

from __future__ import annotations

from pathlib import Path

from mimbench.report.analysis import Analysis, analyze
from mimbench.report.costs import costs_csv
from mimbench.report.latex import latex
from mimbench.report.markdown import markdown
from mimbench.report.table import Table, table_csv, tabulate
from mimbench.report.variance import variance_csv
from mimbench.store.files import write_atomically
from mimbench.store.results import Store


def build_report(store: Store, name: str, scale: str) -> tuple[Path, Table]:
    """Everything under results/reports/<name>.<scale>/; returns that folder and its table."""
    folder = store.report_folder(name, scale)
    return folder, write_report(analyze(store, name, scale), folder)


def write_report(analysis: Analysis, folder: Path, *, runs_at: str | None = "../../runs") -> Table:
    """Each file is replaced as a whole, the page last; those that no longer apply are removed."""
    from mimbench.report.figures import draw
    from mimbench.report.page import page
    from mimbench.report.pictures import pictures

    table, drawings = tabulate(analysis), list(draw(analysis))
    files: dict[str, str | bytes] = {**table_files(analysis, table)}
    for drawing in drawings:
        files |= {f"{drawing.name}.svg": drawing.svg, f"{drawing.name}.png": drawing.png}
    files["index.html"] = page(table, drawings, runs_at=runs_at, pictures=pictures(analysis.grid, folder))
    for name, content in files.items():
        write_atomically(folder / name, content)
    for path in [*folder.glob("*.svg"), *folder.glob("*.png"), folder / "variance.csv"]:
        if path.name not in files:
            path.unlink(missing_ok=True)
    return table


def table_files(analysis: Analysis, table: Table) -> dict[str, str]:
    """What follows from the records byte for byte."""
    files = {"table.md": markdown(table), "table.csv": table_csv(analysis), "table.tex": latex(table),
             "costs.csv": costs_csv(analysis.grid)}  # fmt: skip
    return {**files, "variance.csv": variance_csv(table.spreads)} if table.spreads else files
