"""The model card of an exported encoder: recipe, data, what it began from and under which license, numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from mimbench.errors import UserError
from mimbench.report.analysis import analyze
from mimbench.report.cells import cell_text
from mimbench.store.results import RunFolder, Store

TRAINED = ("pretrain", "checkpoint", "finetuned")  # the kinds of run that leave an encoder


def card(store: Store, folder: RunFolder, usage: str) -> str:
    spec = folder.spec()
    behind = store.run(spec["parents"]["finetune"]).spec() if folder.kind == "finetuned" else {}
    before = behind.get("parents", {}).get("encoder", "random initialization")
    finetuning = {"begun_from": before, "finetune": behind["protocol"]} if behind else {}
    images = spec.get("recipe", behind).get("data")
    origins = list(_origins(store, folder))
    licenses = sorted({origin["license"] for origin in origins if origin.get("license")})
    head = {"tags": ["mimbench", "masked-image-modeling"], "library_name": "mimbench"}
    if origins:
        head["license"] = licenses[0] if len(licenses) == 1 == len(origins) else "other"
    sections = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---",
        f"# {folder.name}",
        f"An encoder by mimbench. To load it, in this folder:\n\n```python\n{usage}\n```",
        "## Recipe\n\n"
        + _block(
            {**spec.get("recipe", spec), **finetuning, "seed": spec["seed"]},
            without=("data", "parents", "version", "threads"),
        ),
        "## Data\n\n" + (_block(images) if images else "Those of the checkpoint; see its own card."),
        "## License\n\n" + _license(origins),
        "## Numbers\n\n" + ("\n\n".join(_numbers(store, folder)) or "No evaluation of it is recorded."),
    ]
    return "\n\n".join(sections) + "\n"


def _block(values: dict[str, Any], without: tuple[str, ...] = ()) -> str:
    shown = {key: value for key, value in values.items() if key not in without}
    return f"```yaml\n{yaml.safe_dump(shown, sort_keys=False)}```"


def _origins(store: Store, folder: RunFolder) -> Iterator[dict[str, Any]]:
    """The foreign checkpoints that it is, or that it learned from."""
    spec = folder.spec()
    if "weights" in spec:
        yield {
            "sha256": spec["weights"]["sha256"],
            **(folder.result()["values"].get("origin", {}) if folder.done() else {}),
        }
    for parent in spec.get("parents", {}).values():
        yield from _origins(store, store.run(parent))


def _license(origins: list[dict[str, Any]]) -> str:
    if not origins:
        return "Trained from random initialization: no other model's license applies. The data may have terms of their own."
    lines = [f"- {origin.get('name', 'a checkpoint')} (sha256 {origin['sha256']}): license "
             f"{origin.get('license') or 'not recorded; look it up before you share this model'}" for origin in origins]  # fmt: skip
    return "\n".join(["It began from, or learned from:", "", *lines])


def _numbers(store: Store, folder: RunFolder) -> Iterator[str]:
    """One table for each row of a grid that this run belongs to: the row's mean over seeds, and this run's own seed."""
    for path, raw in store.grids():
        if isinstance(raw, UserError):
            continue
        for row in raw["rows"]:
            own = sorted(
                int(seed) for seed, runs in row["runs"].items() if folder.name in [runs.get(kind) for kind in TRAINED]
            )
            if own:
                yield _table(store, raw["name"], path.stem.removeprefix(f"{raw['name']}."), row["name"], own)


def _table(store: Store, name: str, scale: str, row: str, own: list[int]) -> str:
    try:
        found = analyze(store, name, scale)
    except UserError as error:  # numbers that are not comparable, or a damaged record
        return f"The numbers of the grid `{name}` at scale `{scale}` cannot be read: {error}"
    cells = [cell for (of_row, _), cell in found.cells.items() if of_row == row and cell.summary is not None]
    lines = [f"Row `{row}` of the grid `{name}` at scale `{scale}`: mean over seeds ± 95 % CI half-width.", "",
             f"| protocol | all seeds | n | this model (seed {', '.join(map(str, own))}) |", "| --- | ---: | ---: | ---: |"]  # fmt: skip
    for cell in cells:
        mine = ", ".join(f"{cell.values[seed]:.2f}" for seed in own if seed in cell.values)
        shown = cell_text(cell, found.grid).rstrip(" ↑↓")
        lines.append(f"| {cell.column.heading} | {shown} | {len(cell.replicates)} | {mine} |")
    return "\n".join(lines) if cells else ""
