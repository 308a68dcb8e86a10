"""Who is at a folder now: a run, or work that one process does at a time. Without locks that a dead process could keep.

Held by creating the next `claim-N` exclusively; kept alive by its modification time. A dead claim is taken over by creating
`claim-(N+1)`, which only one process can: no rename race.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mimbench.errors import UserError
from mimbench.store.files import read_json, write_json

HEARTBEAT_SECONDS = 15
DEAD_AFTER_SECONDS = 120  # of silence, where the process itself cannot be asked: another host
Judge = Callable[[dict[str, Any]], bool]


def nobody(owner: dict[str, Any]) -> bool:
    """The judge who knows of no owner that it is dead."""
    return False


class Claim:
    """A folder that is ours, until it is released or this process ends."""

    def __init__(self, path: Path, token: str, on_lost: Callable[[], None]) -> None:
        self.path, self._token = path, token
        self._stop = threading.Event()
        self.lost, self._on_lost = False, on_lost
        self.on_beat: Callable[[], None] = lambda: None  # what else its owner wants noted now and then
        self._thread = threading.Thread(target=self._beat, daemon=True, name="mimbench-heartbeat")
        self._thread.start()

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            try:
                ours = self._is_ours()
            except OSError:  # a file system that is away for a moment: the next beat tells
                continue
            if not ours:
                self.lost = True  # we were silent too long and somebody took over: stop writing here
                self._on_lost()
                return
            with contextlib.suppress(OSError):
                os.utime(self.path)
                self.on_beat()

    def _is_ours(self) -> bool:
        """By its token: once those who took over have released it, its number may be another's."""
        numbers = _numbers(self.path.parent)
        if not numbers or f"claim-{numbers[-1]}" != self.path.name:
            return False
        try:
            return json.loads(self.path.read_text()).get("token") == self._token
        except (FileNotFoundError, ValueError, AttributeError):
            return False

    def release(self) -> None:
        self._stop.set()
        with contextlib.suppress(OSError):
            if not self.lost and self._is_ours():
                self.path.unlink(missing_ok=True)


def take(folder: Path, on_lost: Callable[[], None] = lambda: None, dead: Judge = nobody) -> Claim | None:
    """Take the folder, or None if it is taken.

    `on_lost` is called should somebody take it over later. `dead` may know that an owner on another host is gone
    although it was heard of lately, for instance from the queue of a cluster.
    """
    numbers = _numbers(folder)
    if numbers and _alive(folder / f"claim-{numbers[-1]}", dead):
        return None
    number = numbers[-1] + 1 if numbers else 0
    pid, token = os.getpid(), secrets.token_hex(8)
    owner = {"machine": _machine(), "host": socket.gethostname(), "pid": pid, "start": _process_start(pid),
             "job": slurm_job(), "token": token}  # fmt: skip
    if not write_json(folder / f"claim-{number}", owner, once=True):
        return None
    if _numbers(folder)[-1:] != [number]:  # others took it over since we looked
        (folder / f"claim-{number}").unlink(missing_ok=True)
        return None
    for old in numbers:
        (folder / f"claim-{old}").unlink(missing_ok=True)
    return Claim(folder / f"claim-{number}", token, on_lost)


def taken(folder: Path) -> bool:
    """Somebody alive is at it."""
    numbers = _numbers(folder)
    return bool(numbers) and _alive(folder / f"claim-{numbers[-1]}", nobody)


def owner_of(folder: Path) -> dict[str, Any] | None:
    """Host, pid and job of whoever claimed it last, dead or alive; None if nobody did, or it cannot be read."""
    numbers = _numbers(folder)
    try:
        return read_json(folder / f"claim-{numbers[-1]}") if numbers else None
    except (OSError, UserError):
        return None


def slurm_job() -> str | None:
    """The cluster's id of the job this process is in, as its queue writes it: 17, or 17_3 of an array."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def _numbers(folder: Path) -> list[int]:
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    return sorted(int(n[6:]) for n in names if n.startswith("claim-") and n[6:].isdigit())


def _alive(path: Path, dead: Judge) -> bool:
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
