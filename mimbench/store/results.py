"""Every path and every file format under results/. State is which files exist; nothing is edited, only added.

results/runs/<kind>-<12 hex>/   spec.json, claim-N, submissions/, attempts/, failures/, curve.csv, result.json, cost.json, work/
results/grids/<name>.<scale>.json   which runs make up which row of a grid, as last planned
results/evaluate/                   grids and scales that `mimbench evaluate` wrote
results/reports/<name>.<scale>/     derived, deletable
results/slurm/<job>/                scripts, stdout and stderr of cluster jobs
results/slurm/released/<array>      this array's submission was completed: a task held in it now is held by its user
results/locks/<name>/               leases of work that one process does at a time
results/cache/                      data sets rendered or prepared here, deletable
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mimbench.errors import UserError
from mimbench.kinds import KINDS
from mimbench.store import lease
from mimbench.store.files import fingerprint, read_json, sha256_file, stamp, write_atomically, write_json
from mimbench.store.lease import IsDead, Lease
from mimbench.store.records import RUN_NAME, read_grid, read_record, write_record

WEIGHTS = "weights.pt"


def run_name(spec: dict[str, Any]) -> str:
    return f"{spec['kind']}-{_identity(spec)}"


def _identity(spec: dict[str, Any]) -> str:
    """All of it but where its data sets lie, which their manifests identify."""
    return fingerprint({key: value for key, value in spec.items() if key != "places"})


class RunFolder:
    """One run: a folder named by what it computes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name

    @property
    def work(self) -> Path:
        """Checkpoints and logs."""
        return self.path / "work"

    @property
    def kind(self) -> str:
        return self.name.rpartition("-")[0]

    # what it computes

    def create(self, spec: dict[str, Any]) -> None:
        """Write the spec down, once. A folder with another spec under this name stops everything.

        Data sets that were moved since are found at their new places.
        """
        path = self.path / "spec.json"
        if not path.exists():
            write_json(path, spec, once=True)
        if self.spec().get("places") != spec.get("places") and not self.done():
            write_json(path, spec)

    def spec(self) -> dict[str, Any]:
        path = self.path / "spec.json"
        spec = read_json(path)
        if not self.name.endswith(f"-{_identity(spec)}"):
            raise UserError(f"{path}: does not match the folder's hash. Move the folder away.")
        return spec

    # how far it is

    def done(self) -> bool:
        return _there(self.path / "result.json")

    def has_weights(self) -> bool:
        """Whether the weights that its children need, if it is a kind that leaves any, are still there."""
        return not KINDS[self.kind].leaves_weights or _there(self.work / WEIGHTS)

    def recorded_weights(self, result: dict[str, Any]) -> Path | None:
        """The file that the sha256 in its result is of; None where the result records none, or the file is not there."""
        if "weights_sha256" not in result:
            return None
        chosen = result.get("values", {}).get("chosen", {}).get("lr")
        path = self.work / (WEIGHTS if KINDS[self.kind].leaves_weights else f"lr-{chosen:g}/final.pt")
        return path if _there(path) else None

    def settled(self) -> bool:
        """Done, with the weights that its children need."""
        return self.done() and self.has_weights()

    def result(self) -> dict[str, Any]:
        return read_record(self.path / "result.json")

    def cost(self) -> dict[str, Any] | None:
        path = self.path / "cost.json"
        return read_record(path) if path.exists() else None

    def state(self) -> str:
        """done, running, failed, stopped (attempted, not finished, held by no live process) or planned."""
        if self.done():
            return "done"
        with contextlib.suppress(FileNotFoundError):
            _check_readable(self.path)
        if self.is_held():
            return "running"
        if self.failed():
            return "failed"
        return "stopped" if self._names("attempts") else "planned"

    def failed(self) -> bool:
        """The last attempt said that it failed."""
        attempts = self._names("attempts")
        return bool(attempts) and attempts[-1] in self._names("failures")

    def _names(self, folder: str) -> list[str]:
        return sorted(path.name for path in (self.path / folder).glob("*.json"))

    # which process works on it

    def is_held(self) -> bool:
        return lease.is_held(self.path)

    def acquire(
        self, on_lost: Callable[[], None] = lambda: None, is_dead: IsDead = lease.unknown_to_be_dead
    ) -> Lease | None:
        return lease.acquire(self.path, on_lost, is_dead)

    def owner(self) -> dict[str, Any]:
        return lease.owner_of(self.path)

    # where it was submitted, and each start

    def note_submission(self, facts: dict[str, Any]) -> None:
        write_record(self.path / "submissions" / f"{stamp()}.json", facts)

    def submission(self) -> dict[str, Any]:
        """The last one to a cluster: job, profile, grid; empty if there was none."""
        return next(self._notes("submissions"), {})

    def submissions(self) -> list[dict[str, Any]]:
        return list(self._notes("submissions"))[::-1]

    def last_attempt(self) -> dict[str, Any]:
        """Facts of the last start: host, job, device, versions; empty if there was none."""
        return next(self._notes("attempts"), {})

    def attempts(self) -> list[dict[str, Any]]:
        return list(self._notes("attempts"))[::-1]

    def last_failure(self) -> dict[str, Any]:
        """Type, message and traceback; empty if there was none."""
        return next(self._notes("failures"), {})

    def _notes(self, folder: str) -> Iterator[dict[str, Any]]:
        """The last one first, each with the time stamp of its name."""
        for name in reversed(self._names(folder)):
            yield {**read_record(self.path / folder / name), "stamp": name.removesuffix(".json")}

    # what it leaves

    def begin_attempt(self, facts: dict[str, Any]) -> str:
        self.path.stat()  # unmounted or moved away: do not leave a stray copy
        name = stamp(after=max(self._names("attempts"), default="").removesuffix(".json"))
        write_record(self.path / "attempts" / f"{name}.json", facts)
        return name

    def fail(self, attempt: str, error: BaseException) -> None:
        if not self.path.is_dir():  # unmounted or moved away: do not leave a stray copy
            return
        text = "".join(traceback.format_exception(error))
        record = {"type": type(error).__name__, "message": str(error), "traceback": text}
        # of several ranks the first to fail knows the cause; the others only lost their peer
        write_record(self.path / "failures" / f"{attempt}.json", record, once=True)

    def finish(self, result: dict[str, Any], cost: dict[str, Any]) -> None:
        """The cost first: with the result the run is done, and no process returns to it."""
        self.path.stat()
        write_record(self.path / "cost.json", cost)
        write_record(self.path / "result.json", result, once=True)


def _there(path: Path) -> bool:
    """In a folder that cannot be read there is nothing; `state` says why."""
    try:
        return path.exists()
    except OSError:
        return False


def _check_readable(folder: Path) -> None:
    try:
        os.listdir(folder)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror}).") from error


def read_progress(work: Path) -> dict[str, Any] | None:
    """Step, steps and rate of a run under way, as its process last noted them."""
    try:
        return read_json(work / "progress.json")
    except UserError:
        return None


def holds_results(folder: Path) -> bool:
    """Whether a folder was written by us: its pictures are no data."""
    return ((folder / "runs").is_dir() and (folder / "grids").is_dir()) or (folder / "cache" / "scans").is_dir()


class Store:
    """A results folder."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self.runs = self.root / "runs"
        self.cache = self.root / "cache"

    def run(self, name: str) -> RunFolder:
        return RunFolder(self.runs / name)

    def all_runs(self) -> Iterator[RunFolder]:
        """Every run folder; folders whose name is not a run's are ignored."""
        if self.runs.is_dir():
            for entry in sorted(os.scandir(self.runs), key=lambda e: e.name):
                if RUN_NAME.match(entry.name) and Path(entry.path).is_dir():
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
        """One process at a time, over all hosts; a dead holder is replaced."""
        folder, end = self.root / "locks" / name, time.monotonic() + seconds
        folder.mkdir(parents=True, exist_ok=True)
        while (held := lease.acquire(folder)) is None:
            if time.monotonic() > end:
                owner = lease.owner_of(folder)
                held_by = f"{owner.get('host')} (pid {owner.get('pid')})"
                raise UserError(f"{folder}: still held by {held_by} after {seconds:g} s.")
            time.sleep(0.2)
        try:
            yield
        finally:
            held.release()

    def note_released(self, array: str) -> None:
        write_atomically(self.root / "slurm" / "released" / array, "")

    def was_released(self, array: str) -> bool:
        return (self.root / "slurm" / "released" / array).exists()

    def imported(self, sha256: str) -> Path:
        """The copy of a foreign checkpoint."""
        return self.cache / "checkpoints" / sha256

    def origin(self, sha256: str) -> dict[str, Any]:
        """Name and license of a foreign checkpoint; empty if none was noted."""
        path = self.imported(sha256).with_suffix(".json")
        return read_json(path) if path.exists() else {}

    def import_file(self, sha256: str, path: Path, origin: dict[str, Any]) -> None:
        """With a note of where it is from; copied again where the copy is damaged."""
        target = self.imported(sha256)
        write_json(target.with_suffix(".json"), origin)
        if not target.exists() or sha256_file(target) != sha256:
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() != sha256:
                raise UserError(f"{path}: changed while the grid was planned. Run the command again.")
            write_atomically(target, content)

    def grid_path(self, name: str, scale: str) -> Path:
        return self.root / "grids" / f"{name}.{scale}.json"

    def report_folder(self, name: str, scale: str) -> Path:
        return self.root / "reports" / f"{name}.{scale}"

    def grids(self, wanted: str | None = None) -> Iterator[tuple[Path, dict[str, Any] | UserError]]:
        """The records of all grids, or of those named <name> or <name>.<scale>.

        In place of a record that cannot be read, the error: it hides no other grid.
        """
        for path in sorted((self.root / "grids").glob("*.json")):
            if wanted not in (None, path.stem, path.stem.rpartition(".")[0]):
                continue
            try:
                yield path, read_grid(path)
            except UserError as error:
                yield path, error
