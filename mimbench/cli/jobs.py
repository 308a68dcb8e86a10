"""`mimbench cancel`, `retry` and `logs`: what one does to runs that are under way or failed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from mimbench.errors import UserError
from mimbench.launch.state import Seen, log_files, look, runs_of
from mimbench.slurm import queue
from mimbench.store.files import side_by_side
from mimbench.store.results import RunFolder, Store

FOLLOW_SECONDS, LOOK_SECONDS = 0.5, 5.0


def records(store: Store, grid: str | None) -> list[tuple[str, str, list[str]]]:
    """(name, scale, runs) of the grids meant: all, or those of this name, or <name>.<scale>."""
    found = []
    for _, record in store.grids(grid):
        if isinstance(record, UserError):
            raise record
        found.append((record["name"], record["scale"], runs_of(record)))
    if not found:
        raise UserError(f"{store.root}: no grid {grid or ''} was run there yet.")
    return found


def cancel(store: Store, grid: str | None) -> Iterator[str]:
    """Take a grid's jobs out of the queue; those that run save first. What is done stays done."""
    for name, scale, runs in records(store, grid):
        seen, warning = look(store, runs)
        if warning:
            raise UserError(warning)
        ours = [one for one in seen.values() if one.alive and one.job]
        # noted first: where a parent goes before its child, SLURM has other names for the child's end
        side_by_side(_note_cancelled, ours)
        queue.cancel(one.job for one in ours if one.job)
        yield f"{name} at scale {scale}: {len(ours)} jobs cancelled; what is finished stays, `mimbench retry` goes on"
        for one in seen.values():
            if one.state == "running" and not one.job:
                yield f"  {one.name} {one.detail} is no job of a cluster: stop its `mimbench run grid` with Ctrl-C"


def _note_cancelled(one: Seen) -> None:
    sent = one.folder.submission()
    one.folder.note_submission({"cancelled": one.job, "profile": sent.get("profile"), "grid": sent.get("grid")})


def profile_of(seen: dict[str, Seen], names: Iterable[str]) -> str | None:
    """The profile these runs were last submitted with, if any of them was."""
    found = (seen[name].folder.submission().get("profile") for name in names)
    return next((str(profile) for profile in found if profile), None)


def to_retry(seen: dict[str, Seen], failed_alone: bool) -> list[str]:
    """What is neither done, nor running, nor queued; or only what failed and what that blocked."""
    states = ("failed", "blocked") if failed_alone else ("failed", "blocked", "stopped", "planned")
    return [name for name, one in seen.items() if one.state in states]


def logs(store: Store, folder: RunFolder, follow: bool) -> Iterator[str]:
    """A run's log as it is; with `follow`, as it grows, until the run ends."""
    seen, _ = look(store, [folder.name])
    files = log_files(folder, seen[folder.name].job)
    if not files and not follow:
        raise UserError(f"{folder.path}: there is no log yet; the run is {seen[folder.name].state}.")
    shown = 0
    if not follow:
        for path in files:
            if path != folder.work / "log.txt":
                yield f"--- {path}\n"
            yield path.read_text(encoding="utf-8", errors="replace")
        return
    path, asked, over = folder.work / "log.txt", -LOOK_SECONDS, False
    while True:
        if time.monotonic() - asked > LOOK_SECONDS:  # seldom: the controller has others to answer
            asked = time.monotonic()
            over = look(store, [folder.name])[0][folder.name].state not in ("running", "queued")
        if path.exists():
            with path.open(encoding="utf-8", errors="replace") as stream:
                stream.seek(shown)
                text = stream.read()
                shown = stream.tell()
            if text:
                yield text
        if over:
            if not shown:  # it never began: what its job said
                yield from logs(store, folder, follow=False)
            return
        time.sleep(FOLLOW_SECONDS)
