"""Fine-tuning with each learning rate of the protocol; one is chosen on held-out images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from torch.utils.data import Dataset

from mimbench.config.schema import NO_DECAY, ScheduleConfig
from mimbench.data.loading import training_stream
from mimbench.errors import Diverged
from mimbench.evals.by_epoch import ByEpoch
from mimbench.evals.common import WORST, EncoderUnderTest, check_any_converged, rate_flags
from mimbench.models.encoder import Encoder
from mimbench.pretrain.fit import Objective, fit
from mimbench.runtime import Runtime
from mimbench.store.files import sha256_file
from mimbench.store.records import read_if_whole, write_record

ADAMW_BETAS = (0.9, 0.999)
Model = TypeVar("Model", bound=Objective)


def sweep(
    under_test: EncoderUnderTest, settings: dict[str, Any], runtime: Runtime, *, seed: int, dataset: Dataset[Any], size: int,
    make_model: Callable[[Encoder], Model], validate: Callable[[Model], float], test: Callable[[Model], dict[str, Any]],
) -> dict[str, Any]:  # fmt: skip
    """Train with each learning rate on `dataset` of `size` images; test the best one, once."""
    rates, by_lr, best = settings["learning_rates"], {}, None
    schedules = [schedule_at(settings, rate, size) for rate in rates]
    for index, (rate, schedule) in enumerate(zip(rates, schedules, strict=True)):
        folder = under_test.work / f"lr-{rate:g}"
        encoder = under_test.encoder(drop_path=settings["drop_path"], size=settings.get("crop"))
        model, scale = make_model(encoder), layer_decay(encoder, settings["layer_decay"])
        part = replace(runtime, progress=_part(runtime, index, len(rates)))
        stream = training_stream(dataset, size, schedule, seed, part, repeats=settings.get("repeats", 1))
        watch = _watch(model, validate, schedule, settings, folder, runtime) if settings.get("curve") else None
        try:
            fit(model, stream, schedule, folder, seed, part, lr_scale=scale, watch=watch)
        except Diverged:
            by_lr[f"{rate:g}"] = {"val": WORST}
            continue
        # a shared file system may show each rank something else; the number is the same, as it follows from the weights
        note = folder / "val.json"
        by_lr[f"{rate:g}"] = measured = read_if_whole(note) or {"val": validate(model)}
        if runtime.rank == 0:
            write_record(note, measured)
        if best is None or measured["val"] > best[0]:
            best = (measured["val"], rate, model, watch)
    check_any_converged(by_lr)
    assert best is not None
    _, chosen, model, watch = best
    metrics = test(model)
    detail = metrics.pop("detail", {}) | ({} if watch is None else {"by_epoch": watch.points()})
    return {
        "metrics": metrics,
        "values": {"chosen": {"lr": chosen}, "by_lr": by_lr, **detail},
        "flags": rate_flags(by_lr, chosen) + _all_tie(by_lr),
        "images": sum(schedule.steps * schedule.batch for schedule in schedules),
        "weights_sha256": sha256_file(under_test.work / f"lr-{chosen:g}" / "final.pt") if runtime.rank == 0 else "",
    }


def _watch(
    model: Model, validate: Callable[[Model], float], schedule: ScheduleConfig, settings: dict[str, Any], folder: Path,
    runtime: Runtime,
) -> ByEpoch:  # fmt: skip

    def measure() -> float:
        try:
            return validate(model)
        finally:
            model.train()

    return ByEpoch(folder / "by_epoch.json", schedule.steps, settings["epochs"], measure, runtime)


def schedule_at(settings: dict[str, Any], rate: float, size: int) -> ScheduleConfig:
    steps = settings.get("steps") or max(1, settings["epochs"] * size // settings["batch"])
    return ScheduleConfig(
        steps=steps, batch=settings["batch"], lr=rate, min_lr=rate * settings["min_lr_ratio"],
        warmup=round(steps * settings["warmup"]), weight_decay=settings["weight_decay"], betas=tuple(settings.get("betas", ADAMW_BETAS)),
        clip=settings.get("clip"), precision=settings["precision"], decay=settings.get("decay", "cosine"),
        no_decay=tuple(settings.get("no_decay", NO_DECAY)),
    )  # fmt: skip


def layer_decay(encoder: Encoder, decay: float) -> Callable[[str], float]:
    """The factor on the learning rate by parameter name: 1 at the head, times `decay` per block below it."""

    def scale(name: str) -> float:
        _, in_encoder, inner = name.partition("encoder.")
        return decay ** (encoder.depth + 1 - encoder.layer_of(inner)) if in_encoder else 1.0

    return scale


def _part(runtime: Runtime, index: int, parts: int) -> Callable[[int, int], None]:
    """The progress of one training run of several, as progress of the whole."""
    return lambda step, steps: runtime.progress(index * steps + step, parts * steps)


def _all_tie(by_lr: dict[str, dict[str, float]]) -> list[str]:
    """A flag if no learning rate was better than another."""
    kept = [measured["val"] for measured in by_lr.values() if measured["val"] != WORST]
    if len(kept) > 1 and len(set(kept)) == 1:
        return ["all learning rates tie on the held-out images: the first was taken"]
    return []
