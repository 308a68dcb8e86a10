"""Execute one run from its folder: what a job calls, on this machine or on a cluster."""

from __future__ import annotations

import contextlib
import importlib
import time
from typing import Any

import torch

from mimbench import env
from mimbench.data.sources import forget
from mimbench.errors import Interrupted, RunFailed, UserError
from mimbench.kinds import KINDS
from mimbench.run.evaluation import evaluate
from mimbench.runtime import Runtime
from mimbench.store.files import read_json, remove_leftovers, write_json
from mimbench.store.lease import IsDead, Lease, unknown_to_be_dead
from mimbench.store.results import WEIGHTS, RunFolder, Store, read_elapsed
from mimbench.store.weights import load_weights

PARTIAL = ("checkpoint.pt", "final.pt", "val.json", "by_epoch.json")  # what an unfinished run leaves to go on from


def execute(store: Store, name: str, runtime: Runtime, is_dead: IsDead = unknown_to_be_dead) -> str:
    """done, held (by another live process), or an exception. The folder records the outcome in every case.

    With several ranks, rank 0 holds the lease and writes; the others follow its decision.
    """
    folder = store.run(name)
    lease, verdict = None, "go"
    if runtime.rank == 0:
        lease = folder.acquire(on_lost=runtime.stop.request, is_dead=is_dead)
        verdict = "held" if lease is None else "done" if folder.settled() else "go"
    try:
        verdict = runtime.from_rank_0(verdict)
        return _attempt(store, folder, runtime, lease) if verdict == "go" else verdict
    finally:
        if lease is not None:
            lease.release()


def _attempt(store: Store, folder: RunFolder, runtime: Runtime, lease: Lease | None) -> str:
    spec = folder.spec()
    on_gpu = runtime.device.type == "cuda"
    where = {"device": torch.cuda.get_device_name(runtime.device) if on_gpu else "cpu", "world": runtime.world}
    if not on_gpu:
        torch.set_num_threads(spec["threads"])
    started, before = time.monotonic(), read_elapsed(folder.work)
    note_elapsed = lambda: _note_elapsed(folder, before + time.monotonic() - started)
    attempt = ""
    if lease is not None:
        remove_leftovers(folder.path)
        lease.on_heartbeat = note_elapsed  # so that the cost of an attempt that is killed counts too
        _discard_stale_work(store, folder, spec)
        attempt = folder.begin_attempt(
            {**env.facts(), **where, "threads": spec["threads"], "micro_batch": runtime.micro_batch,
             "found": progress_found(folder)}
        )  # fmt: skip
    attempt = runtime.from_rank_0(attempt)
    try:
        result, images = _run(store, folder, spec, runtime)
        if runtime.rank == 0:
            seconds = before + time.monotonic() - started
            cost = {**where, "seconds": round(seconds, 2), "images": images, "host": env.facts()["host"],
                    "peak_memory_bytes": env.peak_memory(), "energy_joules": None}  # fmt: skip
            _check_same_weights(folder, result)
            folder.finish({"kind": spec["kind"], "version": spec["version"], **result}, cost)
            _prune(folder, result)
        return "done"
    except Interrupted:
        raise
    except BaseException as error:
        with contextlib.suppress(OSError):  # results that vanished must not hide the original error
            folder.fail(attempt, error)
        raise
    finally:
        if lease is not None and not folder.done():
            note_elapsed()


def _run(store: Store, folder: RunFolder, spec: dict[str, Any], runtime: Runtime) -> tuple[dict[str, Any], int]:
    """The result, and the number of images seen. mmsegmentation takes seconds to import: only what is needed."""
    forget()
    module, _, function = KINDS[spec["kind"]].run.partition(":")
    run = getattr(importlib.import_module(module), function)
    return evaluate(run, store, folder, spec, runtime) if "protocol" in spec else run(store, folder, spec, runtime)


def progress_found(folder: RunFolder) -> list[str]:
    """What an attempt finds to go on from: finished pieces, and the step of every checkpoint."""
    finished = (p for name in ("final.pt", "val.json", WEIGHTS) for p in folder.work.rglob(name))
    found = [str(p.relative_to(folder.work)) for p in finished]
    for path in folder.work.rglob("checkpoint.pt"):
        try:
            where = f"at step {load_weights(path, lazily=True)['step']}"
        except (UserError, KeyError, TypeError):  # torn or not ours: the training reports it
            where = "(unreadable)"
        found.append(f"{path.relative_to(folder.work)} {where}")
    return sorted(found)


def _discard_stale_work(store: Store, folder: RunFolder, spec: dict[str, Any]) -> None:
    """Partial work from weights that a parent no longer has (it was retrained since) cannot be continued."""
    parents = [store.run(name) for name in spec.get("parents", {}).values()]
    try:
        now = {parent.name: _left(parent.result()) for parent in parents if parent.done()}
    except (UserError, KeyError):  # reported when the weights are loaded
        return
    if not now:
        return
    noted = folder.work / "parents.json"
    try:
        changed = noted.exists() and read_json(noted) != now
    except UserError:  # torn: nothing is known of what the work began from
        changed = True
    if changed:
        for path in [path for name in PARTIAL for path in folder.work.rglob(name)]:
            path.unlink()
    write_json(noted, now)


def _left(result: dict[str, Any]) -> Any:
    """What children take from a run: its weights, the pooling that it chose, or the weights at the learning rate it chose."""
    if "weights_sha256" in result:
        return result["weights_sha256"]
    chosen = result["values"]["chosen"]
    return chosen.get("pooling", chosen)


def _check_same_weights(folder: RunFolder, result: dict[str, Any]) -> None:
    """A finished run that was repeated for its lost weights: its children recorded the sha256 of the first ones."""
    if folder.done() and folder.result().get("weights_sha256") != result.get("weights_sha256"):
        raise RunFailed(
            "the recomputed weights differ from the sha256 in result.json (another machine or other versions?). "
            f"Move {folder.path} and the runs that name it as parent away to recompute all of them"
        )


def _prune(folder: RunFolder, result: dict[str, Any]) -> None:
    """Delete what is no longer needed: training states beside the final weights, and learning rates not chosen."""
    chosen = result["values"].get("chosen", {}).get("lr")
    for path in folder.work.rglob("*"):
        kept = chosen is not None and path.parent.name == f"lr-{chosen:g}"
        if path.name.endswith(".tmp") or path.name == "checkpoint.pt" or (path.name == "final.pt" and not kept):
            path.unlink(missing_ok=True)


def _note_elapsed(folder: RunFolder, seconds: float) -> None:
    with contextlib.suppress(OSError):  # a full disk must not end a run; a folder that was moved away must not reappear
        (folder.path / "spec.json").stat()
        write_json(folder.work / "elapsed.json", {"seconds": seconds})
