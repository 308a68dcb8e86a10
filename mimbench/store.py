"""Every path and every file format under results/. State is which files exist; nothing is edited, only added.

results/runs/<kind>-<12 hex>/   spec.json, claim-N, submissions/, attempts/, failures/, curve.csv, result.json, cost.json, work/
results/grids/<name>.<scale>.json   which runs make up which row of a grid, as last planned
results/reports/<name>.<scale>/     derived, deletable
results/slurm/<job>/                scripts and first words of cluster jobs
results/locks/<name>/               claims of what one process does at a time
results/cache/                      data sets made or prepared here, deletable
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mimbench.errors import UserError

HEARTBEAT_SECONDS = 15
DEAD_AFTER_SECONDS = 120  # of silence, where the process itself cannot be asked: another host
RUN_NAME = re.compile(r"^[a-z_]+-[0-9a-f]{12}$")


def canonical(value: Any) -> str:
    """One text for one meaning: sorted keys, no spaces, floats as repr, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)


def fingerprint(value: Any) -> str:
    """The first 12 hex digits of the sha256 of the canonical text."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:12]


def run_name(spec: dict[str, Any]) -> str:
    return f"{spec['kind']}-{fingerprint(spec)}"


def sha256_file(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_atomically(path: Path, data: bytes | str, *, once: bool = False) -> bool:
    """Temp file in the same folder, fsync, rename. `once`: never replaces; False if the file was there already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(data.encode() if isinstance(data, str) else data)
            stream.flush()
            os.fsync(stream.fileno())
        if not once:
            os.replace(temporary, path)
            return True
        try:
            os.link(temporary, path)  # fails if the file exists, unlike rename
        except FileExistsError:
            return False
        return True
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any, *, once: bool = False) -> bool:
    return write_atomically(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n", once=once)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file, or an error naming the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}). Move it away to have the run done again.") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds no JSON object. Move it away to have the run done again.")
    return value


def make_folder_once(target: Path, fill: Callable[[Path], None]) -> Path:
    """Filled beside its place and renamed, so that no process sees half of it; the first of several wins."""
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    building.chmod(0o755)  # a group shares its cache
    try:
        fill(building)
        os.rename(building, target)
    except OSError:
        if not target.is_dir():
            raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return target


def stamp() -> str:
    """A file name that sorts by time and is unique over hosts and processes."""
    now = time.time_ns()
    clock = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now // 10**9))
    return f"{clock}.{now % 10**9:09d}-{socket.gethostname()}-{os.getpid()}"


def slurm_job() -> str | None:
    """The cluster's id of the job this process is in, as its queue writes it: 17, or 17_3 of an array."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


@functools.cache
def _machine() -> str:
    """This host and this process namespace: only here does a pid mean anything."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        namespace = boot = ""
    return f"{socket.gethostname()}:{boot}:{namespace}"


def _process_start(pid: int) -> str | None:
    """The start time of a live process, so that a pid used again is not taken for its predecessor."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


class Claim:
    """Who is at a run now. Held by creating the next `claim-N` exclusively; kept alive by its modification time.

    A dead claim is taken over by creating `claim-(N+1)`, which only one process can: no lock, no rename race.
    """

    def __init__(self, folder: Path, number: int, on_lost: Callable[[], None]) -> None:
        self.path = folder / f"claim-{number}"
        self._stop = threading.Event()
        self.lost, self._on_lost = False, on_lost
        self.on_beat: Callable[[], None] = lambda: None  # what else its owner wants noted now and then
        self._thread = threading.Thread(target=self._beat, daemon=True, name="mimbench-heartbeat")
        self._thread.start()

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            numbers = _claim_numbers(self.path.parent)
            if not numbers or f"claim-{numbers[-1]}" != self.path.name:
                self.lost = True  # we were silent too long and somebody took over: stop writing here
                self._on_lost()
                return
            with contextlib.suppress(OSError):
                os.utime(self.path)
                self.on_beat()

    def release(self) -> None:
        self._stop.set()
        if not self.lost:
            self.path.unlink(missing_ok=True)


def _claim_numbers(folder: Path) -> list[int]:
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    return sorted(int(n[6:]) for n in names if n.startswith("claim-") and n[6:].isdigit())


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
        self.work = path / "work"

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
        numbers = _claim_numbers(self.path)
        return bool(numbers) and self._alive(numbers[-1])

    def _alive(self, number: int, dead: Callable[[dict[str, Any]], bool] = lambda owner: False) -> bool:
        path = self.path / f"claim-{number}"
        try:
            age = time.time() - path.stat().st_mtime
            owner = json.loads(path.read_text() or "{}")
        except FileNotFoundError:
            return False
        except (OSError, ValueError):
            return time.time() - path.stat().st_mtime < DEAD_AFTER_SECONDS
        if isinstance(owner, dict) and owner.get("machine") == _machine() and "pid" in owner:
            return _process_start(owner["pid"]) == owner.get("start")
        return age < DEAD_AFTER_SECONDS and not (isinstance(owner, dict) and dead(owner))

    def claim(
        self,
        on_lost: Callable[[], None] = lambda: None,
        dead: Callable[[dict[str, Any]], bool] = lambda owner: False,
    ) -> Claim | None:
        """Take the run, or None if it is taken.

        `on_lost` is called should somebody take it over later. `dead` may know that an owner on another host is gone
        although it was heard of lately, for instance from the queue of a cluster.
        """
        numbers = _claim_numbers(self.path)
        if numbers and self._alive(numbers[-1], dead):
            return None
        number = numbers[-1] + 1 if numbers else 0
        pid = os.getpid()
        owner = {"machine": _machine(), "host": socket.gethostname(), "pid": pid, "start": _process_start(pid),
                 "job": slurm_job()}  # fmt: skip
        if not write_json(self.path / f"claim-{number}", owner, once=True):
            return None
        if _claim_numbers(self.path)[-1:] != [number]:  # others took it over since we looked
            (self.path / f"claim-{number}").unlink(missing_ok=True)
            return None
        for old in numbers:
            (self.path / f"claim-{old}").unlink(missing_ok=True)
        return Claim(self.path, number, on_lost)

    def claim_owner(self) -> dict[str, Any] | None:
        numbers = _claim_numbers(self.path)
        try:
            return read_json(self.path / f"claim-{numbers[-1]}") if numbers else None
        except (OSError, UserError):
            return None

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


WEIGHTS = "weights.pt"


def has_weights(folder: RunFolder) -> bool:
    """A run that leaves weights is of use to its children only while they are there."""
    return folder.kind not in ("tokenizer", "pretrain") or (folder.work / WEIGHTS).exists()


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
        folder, end = RunFolder(self.root / "locks" / name), time.monotonic() + seconds
        folder.path.mkdir(parents=True, exist_ok=True)
        while (held := folder.claim()) is None:
            if time.monotonic() > end:
                owner = folder.claim_owner() or {}
                raise UserError(f"{folder.path}: held by {owner.get('host')} (pid {owner.get('pid')}) for too long.")
            time.sleep(0.2)
        try:
            yield
        finally:
            held.release()

    def grid_path(self, name: str, scale: str) -> Path:
        return self.root / "grids" / f"{name}.{scale}.json"

    def report_folder(self, name: str, scale: str) -> Path:
        return self.root / "reports" / f"{name}.{scale}"

    def grids(self) -> Iterator[tuple[Path, dict[str, Any] | UserError]]:
        """Every grid's record, or what is wrong with the file: one that is broken hides no other."""
        for path in sorted((self.root / "grids").glob("*.json")):
            try:
                yield path, read_grid(path)
            except UserError as error:
                yield path, error
