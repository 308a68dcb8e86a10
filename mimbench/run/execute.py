"""Carry out one run from its folder: what a job calls, on this machine or on a cluster."""

from __future__ import annotations

import contextlib
import importlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mimbench import env
from mimbench.config.schema import DataConfig, EncoderConfig, ScheduleConfig, TokenizerTraining
from mimbench.data.loading import Keyed, batches
from mimbench.data.sampling import BatchSampler, derive
from mimbench.data.sources.images import load
from mimbench.errors import Interrupted, RunFailed, UserError
from mimbench.evals.common import Subject
from mimbench.parts import Grid
from mimbench.pretrain.fit import Place, fit, load_weights, save_weights
from mimbench.pretrain.step import make_pretraining
from mimbench.pretrain.tokenizer import TokenizerFit, make_tokenizer
from mimbench.store.files import fingerprint, read_json, sha256_file, write_json
from mimbench.store.lease import Claim, Judge, nobody
from mimbench.store.records import ELAPSED, read_record
from mimbench.store.results import WEIGHTS, RunFolder, Store


def execute(store: Store, name: str, place: Place, dead: Judge = nobody) -> str:
    """done, taken (somebody else is at it), or an exception. Whatever happens, the folder tells it.

    With several ranks the first one holds the claim and writes; all of them follow what it sees.
    """
    folder = store.run(name)
    claim, verdict = None, "go"
    if place.rank == 0:
        claim = folder.claim(on_lost=place.stop.ask, dead=dead)
        verdict = "taken" if claim is None else "done" if folder.settled() else "go"
    try:
        verdict = place.of_first_rank(verdict)
        return _attempt(store, folder, place, claim) if verdict == "go" else verdict
    finally:
        if claim is not None:
            claim.release()


def _attempt(store: Store, folder: RunFolder, place: Place, claim: Claim | None) -> str:
    spec = folder.spec()
    if place.device.type == "cpu":
        torch.set_num_threads(spec["threads"])
    started = time.monotonic()
    before = _elapsed_before(folder)
    note_elapsed = lambda: _note_elapsed(folder, before + time.monotonic() - started)
    attempt = ""
    if claim is not None:
        claim.on_beat = note_elapsed  # so that an attempt that is killed has its cost counted too
        _forget_other_parents(store, folder, spec)
        attempt = folder.begin_attempt(
            {**env.facts(), "device": _device_name(place), "threads": spec["threads"], "world": place.world,
             "micro_batch": place.micro_batch, "found": furthest(folder)}
        )  # fmt: skip
    attempt = place.of_first_rank(attempt)
    try:
        result, images = KINDS[spec["kind"]](store, folder, spec, place)
        seconds = before + time.monotonic() - started
        if place.rank == 0:
            cost = {"seconds": round(seconds, 2), "images": images, "peak_memory_bytes": env.peak_memory(),
                    "device": _device_name(place), "host": env.facts()["host"], "world": place.world,
                    "energy_joules": None}  # fmt: skip
            _check_same_weights(folder, result)
            folder.finish({"kind": spec["kind"], "version": spec["version"], **result}, cost)
            _prune(folder, result)
        return "done"
    except Interrupted:
        raise
    except BaseException as error:
        with contextlib.suppress(OSError):  # results that vanished must not hide the error that is under way
            folder.fail(attempt, error)
        raise
    finally:
        if claim is not None and not folder.done():
            note_elapsed()


def furthest(folder: RunFolder) -> list[str]:
    """What an attempt finds to go on from: pieces that are finished, and the step of every checkpoint."""
    finished = (p for name in ("final.pt", "val.json", WEIGHTS) for p in folder.work.rglob(name))
    found = [str(p.relative_to(folder.work)) for p in finished]
    for path in folder.work.rglob("checkpoint.pt"):
        try:
            where = f"at step {load_weights(path, lazily=True)['step']}"
        except (UserError, KeyError, TypeError):  # torn, or not ours: the training says so when it comes to it
            where = "that is not readable"
        found.append(f"{path.relative_to(folder.work)} {where}")
    return sorted(found)


def _forget_other_parents(store: Store, folder: RunFolder, spec: dict[str, Any]) -> None:
    """What was begun from weights that a parent no longer has (it was done again, elsewhere) is no beginning of this run."""
    parents = [store.run(name) for name in spec.get("parents", {}).values()]
    try:
        now = {parent.name: parent.result().get("weights_sha256") for parent in parents if parent.done()}
    except UserError:  # said when it comes to its weights
        return
    if not now:
        return
    noted = folder.work / "parents.json"
    try:
        before = read_json(noted) if noted.exists() else now
    except UserError:
        before = {}
    if before != now:
        for path in list(folder.work.rglob("*")):
            if path.name in ("checkpoint.pt", "final.pt", "val.json"):
                path.unlink()
    write_json(noted, now)


def _prune(folder: RunFolder, result: dict[str, Any]) -> None:
    """Weights that nobody will ask for: training states beside the final weights, and learning rates not chosen."""
    chosen = result["values"].get("chosen", {}).get("lr")
    for path in folder.work.rglob("*"):
        kept = chosen is not None and path.parent.name == f"lr-{chosen:g}"
        if path.name.endswith(".tmp") or (path.name == "final.pt" and not kept):
            path.unlink(missing_ok=True)


def _elapsed_before(folder: RunFolder) -> float:
    """Seconds of earlier attempts, as far as they could still be noted."""
    try:
        return float(read_record(folder.work / "elapsed.json", ELAPSED)["seconds"])
    except UserError:
        return 0.0


def _note_elapsed(folder: RunFolder, seconds: float) -> None:
    with contextlib.suppress(OSError):  # a full disk must not end a run, nor a folder that was moved away come back
        (folder.path / "spec.json").stat()
        write_json(folder.work / "elapsed.json", {"seconds": seconds})


def _device_name(place: Place) -> str:
    return torch.cuda.get_device_name(place.device) if place.device.type == "cuda" else "cpu"


# weights that pass from run to run


def parent_weights(store: Store, name: str) -> tuple[Path, dict[str, Any]]:
    """A parent's weights, checked against the sha256 in its result; and what to record of it."""
    parent = store.run(name)
    path = parent.work / WEIGHTS
    if not parent.done() or not path.exists():
        raise RunFailed(f"the parent {name} has no weights yet; run the grid again, it will be run first")
    recorded = parent.result()["weights_sha256"]
    if sha256_file(path) != recorded:
        raise UserError(f"{path}: is not the file its result.json speaks of (sha256 differs). Move {parent.path} away.")
    return path, {"run": name, "weights_sha256": recorded}


def _keep_weights(folder: RunFolder, state: dict[str, Any]) -> str:
    path = folder.work / WEIGHTS
    save_weights(state, path)
    return sha256_file(path)


def _check_same_weights(folder: RunFolder, result: dict[str, Any]) -> None:
    """A run done before, again for its lost weights: its children were told of other bits, if the machine differs."""
    if folder.done() and folder.result().get("weights_sha256") != result.get("weights_sha256"):
        raise RunFailed(
            f"computed again, the weights are not the bits that its result.json speaks of (another machine or other "
            f"versions?). Move {folder.path} and the runs that name it away to have them all done again"
        )


# the kinds of run


def train_tokenizer(store: Store, folder: RunFolder, spec: dict[str, Any], place: Place) -> tuple[dict[str, Any], int]:
    data, training = _data_config(spec["data"]), TokenizerTraining(**spec["training"])
    side = data.size // spec["patch"]
    grid = Grid(side, side, spec["patch"])
    tokenizer = make_tokenizer(spec["tokenizer"], grid, spec["seed"])
    images = load(data, "train", store.cache).head(data.images)
    objective = TokenizerFit(tokenizer, training.steps, training.crop, spec["seed"])
    seed = derive(spec["seed"], "tokenizer training")
    stream = _stream(images, training, seed, place)
    fit(objective, stream, training, folder.work, seed, place, curve=folder.path / "curve.csv")
    tokenizer.eval()
    held_out = load(data, "val", store.cache)
    raw = held_out.plain(range(min(1000, len(held_out)))).to(place.device)
    with torch.no_grad():
        fitness = tokenizer.fitness({"raw": raw}, grid)
    sha = _keep_weights(folder, {k: v.cpu() for k, v in tokenizer.state_dict().items()}) if place.rank == 0 else ""
    metrics = {k: v for k, v in fitness.items() if isinstance(v, float)}
    flags = [] if fitness["fit"] else [f"not fit as a tokenizer: {fitness['why']}"]
    return {
        "metrics": metrics, "values": {"fit": fitness["fit"], "why": fitness["why"]}, "flags": flags, "weights_sha256": sha,
    }, training.steps * training.batch  # fmt: skip


def pretrain(store: Store, folder: RunFolder, spec: dict[str, Any], place: Place) -> tuple[dict[str, Any], int]:
    recipe = spec["recipe"]
    data, schedule = _data_config(recipe["data"]), ScheduleConfig(**_tuples(recipe["schedule"]))
    side = data.size // recipe["encoder"]["patch"]
    tokenizer = make_tokenizer(recipe["tokenizer"], Grid(side, side, recipe["encoder"]["patch"]), spec["seed"])
    parents = {}
    if tokenizer.trained:
        path, parents["tokenizer"] = parent_weights(store, spec["parents"]["tokenizer"])
        tokenizer.load_state_dict(load_weights(path))
    objective = make_pretraining(recipe, tokenizer, spec["seed"])
    images = load(data, "train", store.cache).head(data.images)
    seed = derive(spec["seed"], "pretraining")
    curve = folder.path / "curve.csv"
    fit(objective, _stream(images, schedule, seed, place), schedule, folder.work, seed, place, curve=curve)
    state = {k: v.cpu() for k, v in objective.encoder.state_dict().items()}
    sha = _keep_weights(folder, state) if place.rank == 0 else ""
    last = curve.read_text().strip().rsplit("\n", 1)[-1].split(",") if place.rank == 0 else ["", "nan"]
    return {
        "metrics": {"loss": float(last[1])}, "values": {}, "flags": [], "parents": parents, "weights_sha256": sha,
    }, schedule.steps * schedule.batch  # fmt: skip


def evaluate(store: Store, folder: RunFolder, spec: dict[str, Any], place: Place) -> tuple[dict[str, Any], int]:
    weights, parents = None, {}
    if "encoder" in spec["parents"]:
        weights, parents["encoder"] = parent_weights(store, spec["parents"]["encoder"])
    subject = Subject(
        config=EncoderConfig(**spec["encoder"]), weights=weights, seed=spec["seed"], data=_data_config(spec["data"]),
        segmentation_data=spec.get("segmentation_data", "shapes"), counts=spec["counts"], cache=store.cache, work=folder.work,
    )  # fmt: skip
    measured = _evaluator(spec["kind"])(subject, spec["protocol"]["settings"], place)
    images = measured.pop("images", 0)
    data = {"name": spec["data"]["name"], "fingerprint": _data_fingerprint(spec)}
    return {
        "metric": spec["metric"],
        "protocol": spec["protocol"],
        "data": data,
        "parents": parents,
        **measured,
    }, images


def _evaluator(kind: str) -> Callable[[Subject, dict[str, Any], Place], dict[str, Any]]:
    """mmsegmentation takes seconds to import: only what is needed."""
    return importlib.import_module(f"mimbench.evals.{kind}").evaluate


def _data_fingerprint(spec: dict[str, Any]) -> str:
    facts = {"data": spec["data"], "counts": spec["counts"], "segmentation": spec.get("segmentation_data")}
    if "segmentation_manifest" in spec:  # of photographs; the embedded data follow from `data`
        facts["segmentation_manifest"] = spec["segmentation_manifest"]
    return fingerprint(facts)


def _data_config(spec: dict[str, Any]) -> DataConfig:
    fields = DataConfig.__dataclass_fields__
    return DataConfig(**_tuples({k: v for k, v in spec.items() if k in fields}))


def _tuples(spec: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in spec.items()}


def _stream(images: Any, schedule: ScheduleConfig, seed: int, place: Place) -> Callable[[int], Any]:
    def start_at(step: int) -> Any:
        sampler = BatchSampler(
            len(images), schedule.batch, schedule.steps, seed, start=step, rank=place.rank, world=place.world
        )
        return batches(Keyed(images, seed), sampler, workers=place.workers, pin=place.device.type == "cuda")

    return start_at


KINDS: dict[str, Callable[[Store, RunFolder, dict[str, Any], Place], tuple[dict[str, Any], int]]] = {
    "tokenizer": train_tokenizer,
    "pretrain": pretrain,
    "finetune": evaluate,
    "linear_probe": evaluate,
    "knn": evaluate,
    "segmentation": evaluate,
}


def default_place() -> Place:
    """The first GPU that is visible, else the CPU."""
    device = (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if torch.cuda.is_available() else torch.device("cpu")
    )
    return Place(device=device)
