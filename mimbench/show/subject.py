"""What is looked at: a run, a row of a grid at one seed, or a checkpoint from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mimbench.errors import UserError, check_known, unknown
from mimbench.launch.state import find_run
from mimbench.models.encoder import Encoder
from mimbench.report.shown import FOLDER as PICTURES
from mimbench.report.shown import stem
from mimbench.run.encoder import LEAVE_ONE, of_checkpoint, of_run
from mimbench.store.files import file_name
from mimbench.store.results import RunFolder, Store


@dataclass(frozen=True)
class Subject:
    store: Store
    title: str
    name: str  # of its pictures' files
    folder: Path  # of its pictures
    runs: tuple[RunFolder, ...] = ()  # of one run, or of a row at one seed
    weights: str = ""  # of a checkpoint

    def path(self, what: str) -> Path:
        return self.folder / f"{self.name}.{what}.png"

    def run(self, kinds: Iterable[str]) -> RunFolder | None:
        """The run of one of these kinds: one of its own, or one that they build on."""
        wanted, looked = set(kinds), list(self.runs)
        for folder in looked:  # grows while it is walked: parents come after children
            if folder.kind in wanted:
                return folder
            looked += [self.store.run(parent) for parent in folder.spec().get("parents", {}).values()]
        return None

    def finished(self, kinds: Iterable[str], what: str) -> RunFolder:
        """As `run`, with its weights; `what` is what a subject without such a run lacks."""
        folder = self.run(kinds)
        if folder is None:
            raise UserError(f"{self.title}: has no {what}.")
        if not folder.settled():
            state = "done, but its weights are gone" if folder.done() else folder.state()
            raise UserError(f"{folder.name}: has no weights ({state}). Run its grid, then look again.")
        return folder

    def encoder(self) -> Encoder:
        if self.weights:
            return of_checkpoint(self.weights)
        return of_run(self.store, self.finished(LEAVE_ONE, "encoder: nothing was pre-trained").name)


def find_subject(store: Store, words: list[str], scale: str | None, seed: int | None, *, own_data: bool) -> Subject:
    """`RUN`, `GRID ROW` or `WEIGHTS`. A report shows pictures of a row's own data; others lie apart."""
    if len(words) == 2:
        row, grid = _row(store, words[0], words[1], scale, seed)
        return row if own_data else replace(row, folder=store.root / PICTURES, name=f"{grid}.{row.name}")
    if len(words) != 1:
        raise UserError(
            f"{' '.join(words) or 'show'}: name a run, a grid and its row, or a checkpoint (a path, timm:NAME or hf:NAME)."
        )
    if scale is not None or seed is not None:
        raise UserError(f"{words[0]}: --scale and --seed belong to a row: give the grid and the row.")
    if is_checkpoint(words[0]):
        name = file_name(words[0])
        return Subject(store, name, name, store.root / PICTURES, weights=words[0])
    folder = _find_run(store, words[0])
    return Subject(store, folder.name, folder.name, store.root / PICTURES, (folder,))


def _find_run(store: Store, word: str) -> RunFolder:
    try:
        return find_run(store, word)
    except UserError as error:
        if found := _records(store, word):
            rows = ", ".join(row["name"] for row in found[0]["rows"])
            raise UserError(f"{word}: is a grid; name its row too: {rows}.") from None
        raise UserError(
            f"{error} Name a run, a grid and its row, or a checkpoint (a path, timm:NAME or hf:NAME)."
        ) from None


def is_checkpoint(word: str) -> bool:
    return word.partition(":")[0] in ("timm", "hf") or Path(word).exists()


def was_run(store: Store, grid: str, scale: str | None) -> bool:
    return any(scale in (None, record["scale"]) for record in _records(store, grid))


def _records(store: Store, grid: str) -> list[dict[str, Any]]:
    """Of a grid at every scale: by its name, <name>.<scale>, or the path of its file."""
    stem = Path(grid).name.removesuffix(".yaml")
    records = [record for _, record in store.grids() if not isinstance(record, UserError)]
    return [r for r in records if stem in (r["name"], f"{r['name']}.{r['scale']}") or grid == r["config"]]


def grid_record(store: Store, grid: str, scale: str | None) -> dict[str, Any]:
    """Of a grid that was run."""
    found = _records(store, grid)
    if not found:
        raise unknown(str(store.root), "grid", grid, {path.stem.rpartition(".")[0] for path, _ in store.grids()})
    at_scale = [record for record in found if scale in (None, record["scale"])]
    scales = [record["scale"] for record in found]
    if not at_scale:
        raise unknown(f"{grid}: --scale", "scale", scale, scales)
    if len(at_scale) > 1:
        raise UserError(f"{grid}: was run at {', '.join(scales)}. Choose one with --scale.")
    return at_scale[0]


def _row(store: Store, grid: str, row: str, scale: str | None, seed: int | None) -> tuple[Subject, str]:
    """And the grid's name and scale."""
    record = grid_record(store, grid, scale)
    rows = {found["name"]: found for found in record["rows"]}
    check_known(grid, "row", row, rows)
    by_seed = rows[row]["runs"]
    chosen = next(iter(by_seed), "") if seed is None else str(seed)
    check_known(f"{grid}: {row}: --seed", "seed", chosen, by_seed)
    runs = tuple(store.run(name) for name in by_seed[chosen].values())
    folder = store.report_folder(record["name"], record["scale"]) / PICTURES
    found = Subject(store, f"{rows[row]['label']}, seed {chosen}", stem(row), folder, runs)
    return found, f"{record['name']}.{record['scale']}"
