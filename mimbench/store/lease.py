"""Leases: which process works on a folder now. No lock that a dead process could keep.

A lease is acquired by creating the next `claim-N` exclusively, and by then finding no other live one: a number may be in use again
after a release. It is kept alive by its modification time. A dead one is taken over by creating `claim-(N+1)`.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import random
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mimbench.env import slurm_job
from mimbench.store.files import write_json

HEARTBEAT_SECONDS = 15
DEAD_AFTER_SECONDS = 120  # without a heartbeat, where the process itself cannot be checked: another host
ATTEMPTS = 10  # where two processes claim at once, both give way and try again
CLAIM = re.compile("claim-[0-9]{1,9}")
IsDead = Callable[[dict[str, Any]], bool]


def unknown_to_be_dead(owner: dict[str, Any]) -> bool:
    """Default of `is_dead`: nothing is known about the owner."""
    return False


class Lease:
    """A folder that is ours until it is released or this process ends."""

    def __init__(self, path: Path, token: str, on_lost: Callable[[], None]) -> None:
        self.path, self._token = path, token
        self._stop = threading.Event()
        self._on_lost = on_lost
        self.on_heartbeat: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._beat, daemon=True, name="mimbench-heartbeat")
        self._thread.start()

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            try:
                ours = self._is_ours()
            except OSError:  # the file system is away for a moment: the next beat will see
                continue
            if not ours:
                self._on_lost()  # we were silent too long and another process took over: stop writing here
                return
            with contextlib.suppress(OSError):
                os.utime(self.path)
                self.on_heartbeat()

    def _is_ours(self) -> bool:
        """By its token: after a takeover and a release its number may be reused by another process."""
        try:
            return _owner(self.path).get("token") == self._token
        except FileNotFoundError:
            return False

    def release(self) -> None:
        self._stop.set()
        with contextlib.suppress(OSError):
            if self._is_ours():
                self.path.unlink()


def acquire(
    folder: Path, on_lost: Callable[[], None] = lambda: None, is_dead: IsDead = unknown_to_be_dead
) -> Lease | None:
    """The lease of a folder, or None if a live process holds it.

    `on_lost` is called if another process takes it over later. `is_dead` may know that an owner on another host is gone
    although its last heartbeat is recent, for example from the queue of a cluster.
    """
    for _ in range(ATTEMPTS):
        claims = _claims(folder)
        if any(_alive(claim, is_dead) for claim in claims):
            return None
        path = folder / f"claim-{_number(claims[-1]) + 1 if claims else 0}"
        pid, token = os.getpid(), secrets.token_hex(8)
        owner = {"machine": _machine(), "host": socket.gethostname(), "pid": pid, "start": process_start(pid),
                 "job": slurm_job(), "token": token}  # fmt: skip
        if not write_json(path, owner, once=True):
            return None
        # what was listed may have been released and claimed anew since, under another number: of two who claim at the
        # same time, at least the later one sees the other here
        if not any(_alive(claim, is_dead) for claim in _claims(folder) if claim != path):
            for old in claims:
                old.unlink(missing_ok=True)
            return Lease(path, token, on_lost)
        path.unlink(missing_ok=True)
        time.sleep(random.uniform(0, 0.05))
    return None


def is_held(folder: Path) -> bool:
    """Whether a live process holds it."""
    claims = _claims(folder)
    return bool(claims) and _alive(claims[-1], unknown_to_be_dead)


def owner_of(folder: Path) -> dict[str, Any]:
    """Host, pid and job of the last owner, dead or alive; empty without one, or if it cannot be read."""
    claims = _claims(folder)
    try:
        return _owner(claims[-1]) if claims else {}
    except OSError:
        return {}


def _claims(folder: Path) -> list[Path]:
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    return sorted((folder / name for name in names if CLAIM.fullmatch(name)), key=_number)


def _number(claim: Path) -> int:
    return int(claim.name.removeprefix("claim-"))


def _owner(path: Path) -> dict[str, Any]:
    """What a claim says; empty if it is damaged."""
    try:
        return dict(json.loads(path.read_text()))
    except (ValueError, TypeError, RecursionError):
        return {}


def _alive(path: Path, is_dead: IsDead) -> bool:
    owner: dict[str, Any] = {}
    try:
        age = time.time() - path.stat().st_mtime
        with contextlib.suppress(PermissionError):
            owner = _owner(path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):  # a link to itself is no claim of ours
            return False
        raise
    pid, start = owner.get("pid"), owner.get("start")
    if owner.get("machine") == _machine() and isinstance(pid, int) and isinstance(start, str):
        return process_start(pid) == start
    # a heartbeat from the future was made before the clock was set back: a live owner would have made another since
    return abs(age) < DEAD_AFTER_SECONDS and not is_dead(owner)


@functools.cache
def _machine() -> str:
    """This host and this process namespace: only here does a pid mean anything."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        namespace = boot = ""
    return f"{socket.gethostname()}:{boot}:{namespace}"


def process_start(pid: int) -> str | None:
    """The start time of a live process, so that a reused pid is not mistaken for its predecessor."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]
