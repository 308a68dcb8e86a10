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
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mimbench.errors import UserError
from mimbench.store import lease as claims
from mimbench.store.files import canonical, fingerprint, read_json, stamp, write_atomically, write_json
from mimbench.store.lease import Claim, Judge, nobody
from mimbench.store.records import ATTEMPT, COST, PROGRESS, RESULT, RUN_NAME, Fields, read_grid, read_record

WEIGHTS = "weights.pt"


def run_name(spec: dict[str, Any]) -> str:
    return f"{spec['kind']}-{fingerprint(spec)}"


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
        if (name := run_name({"kind": None, **spec})) != self.name:
            raise UserError(f"{self.path / 'spec.json'}: does not belong to this folder (its hash is {name}).")
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
        return read_record(self.path / "result.json", RESULT)

    def cost(self) -> dict[str, Any] | None:
        path = self.path / "cost.json"
        return read_record(path, COST) if path.exists() else None

    def state(self) -> str:
        """done, running, failed, stopped (attempted, not finished, nobody at it) or planned."""
        if self.done():
            return "done"
        try:
            claimed = self.claimed()
        except NotADirectoryError as error:
            raise UserError(f"{self.path}: is a file, not a run's folder. Move it away.") from error
        if claimed:
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
        except (FileNotFoundError, NotADirectoryError):
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
        return self._last("submissions", {})

    def last_attempt(self) -> dict[str, Any]:
        """Facts of the last start: host, job, device, versions; empty if there was none."""
        return self._last("attempts", ATTEMPT)

    def _last(self, folder: str, fields: Fields) -> dict[str, Any]:
        names = self._names(folder)
        if not names:
            return {}
        return {**read_record(self.path / folder / names[-1], fields), "stamp": names[-1].removesuffix(".json")}

    def submissions(self) -> list[dict[str, Any]]:
        return [read_json(self.path / "submissions" / name) for name in self._names("submissions")]

    def attempts(self) -> list[dict[str, Any]]:
        return [read_record(self.path / "attempts" / name, ATTEMPT) for name in self._names("attempts")]

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
        return read_record(work / "progress.json", PROGRESS)
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
