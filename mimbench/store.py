"""Every path and every file format under results/. State is which files exist; nothing is edited, only added.

results/runs/<kind>-<12 hex>/   spec.json, claim-N, submissions/, attempts/, failures/, curve.csv, result.json, cost.json, work/
results/grids/<name>.<scale>.json   which runs make up which row of a grid, as last planned
results/reports/<name>.<scale>/     derived, deletable
results/slurm/<job>/                scripts and first words of cluster jobs
results/slurm/released/<array>      the submission of this array came to its end: what is held in it now its user holds
results/locks/<name>/               claims of what one process does at a time
results/cache/                      data sets made or prepared here, deletable
"""

from __future__ import annotations

import contextlib
import os
import re
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mimbench import claim as claims
from mimbench.claim import Claim, Judge, nobody
from mimbench.errors import UserError
from mimbench.files import canonical, fingerprint, read_json, stamp, write_atomically, write_json

WEIGHTS = "weights.pt"
RUN_NAME = re.compile(r"^[a-z_]+-[0-9a-f]{12}$")


def run_name(spec: dict[str, Any]) -> str:
    return f"{spec['kind']}-{fingerprint(spec)}"


def read_grid(path: Path) -> dict[str, Any]:
    """A grid's record, checked for what its readers take for granted."""
    record = read_json(path)
    wanted = {"name": str, "scale": str, "seeds": list, "columns": list, "rows": list}
    for key, kind in wanted.items():
        if not isinstance(record.get(key), kind):
            raise UserError(f"{path}: is no grid's record ('{key}' is missing or of another kind). Move it away.")
    for row in record["rows"]:
        if not isinstance(row, dict) or not isinstance(row.get("runs"), dict):
            raise UserError(f"{path}: is no grid's record (a row without runs). Move it away.")
    return record


class RunFolder:
    """One run: a folder named by what it computes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name

    @property
    def work(self) -> Path:
        """What a training leaves to go on from, and its log."""
        return self.path / "work"

    @property
    def kind(self) -> str:
        return self.name.rpartition("-")[0]

    # what it computes

    def create(self, spec: dict[str, Any]) -> None:
        """Write the spec down, once. A folder with another spec under this name stops everything."""
        path = self.path / "spec.json"
        if not path.exists() and write_json(path, spec, once=True):
            return
        if canonical(read_json(path)) != canonical(spec):
            raise UserError(f"{path}: holds another spec than the one its name stands for. Move the folder away.")

    def spec(self) -> dict[str, Any]:
        spec = read_json(self.path / "spec.json")
        if run_name(spec) != self.name:
            raise UserError(
                f"{self.path / 'spec.json'}: does not belong to this folder (its hash is {run_name(spec)})."
            )
        return spec

    # how far it is

    def done(self) -> bool:
        return (self.path / "result.json").exists()

    def has_weights(self) -> bool:
        """A run that leaves weights is of use to its children only while they are there."""
        return self.kind not in ("tokenizer", "pretrain") or (self.work / WEIGHTS).exists()

    def settled(self) -> bool:
        """Done, and of use to its children."""
        return self.done() and self.has_weights()

    def result(self) -> dict[str, Any]:
        return read_json(self.path / "result.json")

    def cost(self) -> dict[str, Any] | None:
        path = self.path / "cost.json"
        return read_json(path) if path.exists() else None

    def state(self) -> str:
        """done, running, failed, stopped (attempted, not finished, nobody at it) or planned."""
        if self.done():
            return "done"
        if self.claimed():
            return "running"
        if self.failed():
            return "failed"
        return "stopped" if self._names("attempts") else "planned"

    def failed(self) -> bool:
        """The last attempt said that it failed."""
        attempts = self._names("attempts")
        return bool(attempts) and attempts[-1] in self._names("failures")

    def last_failure(self) -> dict[str, Any] | None:
        names = self._names("failures")
        return read_json(self.path / "failures" / names[-1]) if names else None

    def _names(self, folder: str) -> list[str]:
        try:
            return sorted(n for n in os.listdir(self.path / folder) if n.endswith(".json"))
        except FileNotFoundError:
            return []

    # who is at it

    def claimed(self) -> bool:
        """Somebody alive is at it."""
        return claims.taken(self.path)

    def claim(self, on_lost: Callable[[], None] = lambda: None, dead: Judge = nobody) -> Claim | None:
        """Take the run, or None if it is taken."""
        return claims.take(self.path, on_lost, dead)

    def claim_owner(self) -> dict[str, Any] | None:
        return claims.owner_of(self.path)

    # where it was sent

    def note_submission(self, facts: dict[str, Any]) -> None:
        write_json(self.path / "submissions" / f"{stamp()}.json", facts)

    def submission(self) -> dict[str, Any]:
        """The last one to a cluster: job, profile, grid; empty if there was none."""
        return self._last("submissions")

    def last_attempt(self) -> dict[str, Any]:
        """Facts of the last start: host, job, device, versions; empty if there was none."""
        return self._last("attempts")

    def _last(self, folder: str) -> dict[str, Any]:
        names = self._names(folder)
        if not names:
            return {}
        return {**read_json(self.path / folder / names[-1]), "stamp": names[-1].removesuffix(".json")}

    def submissions(self) -> list[dict[str, Any]]:
        return [read_json(self.path / "submissions" / name) for name in self._names("submissions")]

    def attempts(self) -> list[dict[str, Any]]:
        return [read_json(self.path / "attempts" / name) for name in self._names("attempts")]

    # what it leaves

    def begin_attempt(self, facts: dict[str, Any]) -> str:
        name = stamp()
        write_json(self.path / "attempts" / f"{name}.json", facts)
        return name

    def fail(self, attempt: str, error: BaseException) -> None:
        if not self.path.is_dir():  # unmounted, or moved away: a stray copy of it would help nobody
            return
        text = "".join(traceback.format_exception(error))
        record = {"type": type(error).__name__, "message": str(error), "traceback": text}
        # of several ranks the first to fail knows why; the others only lost their peer
        write_json(self.path / "failures" / f"{attempt}.json", record, once=True)

    def finish(self, result: dict[str, Any], cost: dict[str, Any]) -> None:
        """The cost first: once the result is there, the run is done and nobody comes back."""
        write_json(self.path / "cost.json", cost)
        write_json(self.path / "result.json", result, once=True)


def read_progress(work: Path) -> dict[str, Any] | None:
    """Step, steps and rate of a run under way, as its process last noted them."""
    try:
        return read_json(work / "progress.json")
    except UserError:
        return None


class Store:
    """A results folder."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self.runs = self.root / "runs"
        self.cache = self.root / "cache"

    def run(self, name: str) -> RunFolder:
        return RunFolder(self.runs / name)

    def all_runs(self) -> Iterator[RunFolder]:
        """Every run folder; a folder whose name is no run's is not ours to judge and is passed over."""
        if self.runs.is_dir():
            for entry in sorted(os.scandir(self.runs), key=lambda e: e.name):
                if RUN_NAME.match(entry.name) and entry.is_dir():
                    yield RunFolder(Path(entry.path))

    def check_writable(self) -> None:
        """Fail before any compute if results cannot be written."""
        probe = self.runs / f".probe-{os.getpid()}"
        try:
            self.runs.mkdir(parents=True, exist_ok=True)
            probe.write_text("")
            probe.unlink()
        except OSError as error:
            raise UserError(f"{self.root}: results cannot be written there ({error.strerror}).") from error

    @contextlib.contextmanager
    def lock(self, name: str, seconds: float) -> Iterator[None]:
        """One process at a time, over all hosts; a dead holder's place is taken."""
        folder, end = self.root / "locks" / name, time.monotonic() + seconds
        folder.mkdir(parents=True, exist_ok=True)
        while (held := claims.take(folder)) is None:
            if time.monotonic() > end:
                owner = claims.owner_of(folder) or {}
                raise UserError(f"{folder}: held by {owner.get('host')} (pid {owner.get('pid')}) for too long.")
            time.sleep(0.2)
        try:
            yield
        finally:
            held.release()

    def note_released(self, array: str) -> None:
        write_atomically(self.root / "slurm" / "released" / array, "")

    def was_released(self, array: str) -> bool:
        return (self.root / "slurm" / "released" / array).exists()

    def grid_path(self, name: str, scale: str) -> Path:
        return self.root / "grids" / f"{name}.{scale}.json"

    def report_folder(self, name: str, scale: str) -> Path:
        return self.root / "reports" / f"{name}.{scale}"

    def grids(self, wanted: str | None = None) -> Iterator[tuple[Path, dict[str, Any] | UserError]]:
        """The records of all grids, or of those named <name> or <name>.<scale>.

        Instead of a record what is wrong with its file: one that is broken hides no other.
        """
        for path in sorted((self.root / "grids").glob("*.json")):
            if wanted not in (None, path.stem, path.stem.rpartition(".")[0]):
                continue
            try:
                yield path, read_grid(path)
            except UserError as error:
                yield path, error
