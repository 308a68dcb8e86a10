"""Fine-tuning of the whole network: every learning rate tried for every row, one chosen on held-out images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mimbench.config.schema import ScheduleConfig
from mimbench.data.loading import Keyed, batches
from mimbench.data.sampling import BatchSampler, derive
from mimbench.data.sources.images import Images, normalise
from mimbench.evals.common import Subject, at_edge, percent
from mimbench.models.encoder import Encoder
from mimbench.pretrain.fit import Objective, Place, fit
from mimbench.store.files import read_json, write_json

BATCH = 250  # of the evaluation


class Classifier(Objective):
    """Encoder, mean of the patch tokens, a new LayerNorm, a linear head."""

    def __init__(self, encoder: Encoder, classes: int, label_smoothing: float, seed: int) -> None:
        super().__init__()
        encoder.body.norm = nn.Identity()  # fc_norm takes its place, as in BEiT and MAE
        self.encoder, self.label_smoothing = encoder, label_smoothing
        self.fc_norm = nn.LayerNorm(encoder.dim, eps=1e-6)
        self.head = nn.Linear(encoder.dim, classes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "head"))
            nn.init.trunc_normal_(self.head.weight, std=0.02)
            nn.init.zeros_(self.head.bias)

    def prepare(self, batch: dict[str, Tensor], step: int, place: Place) -> list[Any]:
        size, share = (
            min(place.micro_batch or len(batch["raw"]), len(batch["raw"])),
            1 / (len(batch["raw"]) * place.world),
        )
        pairs = zip(batch["raw"].split(size), batch["label"].split(size), strict=True)
        return [{"raw": raw, "label": label, "share": share} for raw, label in pairs]

    def logits(self, raw: Tensor) -> Tensor:
        return self.head(self.fc_norm(self.encoder(normalise(raw)).patches.mean(1)))

    def forward(self, micro: dict[str, Any]) -> Tensor:
        scores = self.logits(micro["raw"]).float()
        return (
            F.cross_entropy(scores, micro["label"], label_smoothing=self.label_smoothing, reduction="sum")
            * micro["share"]
        )


def evaluate(subject: Subject, settings: dict[str, Any], place: Place) -> dict[str, Any]:
    train, val, test = (subject.images(split) for split in ("labelled", "val", "test"))
    bf16 = settings["precision"] == "bf16"

    def train_one(rate: float, name: str, place: Place) -> Classifier:
        encoder = subject.encoder(drop_path=settings["drop_path"])
        model = Classifier(encoder, train.classes, settings["label_smoothing"], subject.seed)
        schedule = schedule_of(settings, rate, len(train))
        seed = derive(subject.seed, "finetune")
        sampler = lambda start: BatchSampler(len(train), schedule.batch, schedule.steps, seed, start=start,
                                             rank=place.rank, world=place.world)  # fmt: skip
        stream: Callable[[int], Iterator[Any]] = lambda start: batches(
            Keyed(train, seed), sampler(start), workers=place.workers
        )
        fit(
            model,
            stream,
            schedule,
            subject.work / name,
            seed,
            place,
            lr_scale=layer_decay(model.encoder, settings["layer_decay"]),
        )
        return model

    return sweep(
        subject, settings, place, train_one, images=images_seen(settings, len(train)),
        validate=lambda model: accuracy(model, val, place, bf16),
        test=lambda model: {"accuracy": accuracy(model, test, place, bf16)},
    )  # fmt: skip


def schedule_of(settings: dict[str, Any], rate: float, images: int) -> ScheduleConfig:
    """The schedule of one training with this learning rate."""
    steps = max(1, settings["epochs"] * images // settings["batch"])
    return ScheduleConfig(
        steps=steps, batch=settings["batch"], lr=rate, min_lr=rate * settings["min_lr_ratio"],
        warmup=round(steps * settings["warmup"]), weight_decay=settings["weight_decay"], betas=tuple(settings["betas"]),
        clip=settings["clip"], precision=settings["precision"],
    )  # fmt: skip


def images_seen(settings: dict[str, Any], images: int) -> int:
    schedule = schedule_of(settings, 1.0, images)
    return schedule.steps * schedule.batch


def layer_decay(encoder: Encoder, decay: float) -> Callable[[str], float]:
    """Learning rates fall by `decay` a block from the head down: a rule, so that encoders of any depth share it."""

    def scale(name: str) -> float:
        layer = encoder.layer_of(name.removeprefix("encoder.")) if name.startswith("encoder.") else encoder.depth + 1
        return decay ** (encoder.depth + 1 - layer)

    return scale


def sweep(
    subject: Subject, settings: dict[str, Any], place: Place, train_one: Callable[[float, str, Place], Any],
    *, images: int, validate: Callable[[Any], float], test: Callable[[Any], dict[str, Any]],
) -> dict[str, Any]:  # fmt: skip
    """Train with every learning rate, choose on held-out images, test the chosen one, once."""
    rates, by_lr, best = settings["learning_rates"], {}, None
    for index, rate in enumerate(rates):
        name = f"lr-{rate:g}"
        note = subject.work / name / "val.json"
        model = train_one(rate, name, replace(place, progress=_part(place, index, len(rates))))
        # every rank asks its own file system; they agree on the number all the same, as it follows from the weights
        by_lr[f"{rate:g}"] = read_json(note) if note.exists() else {"val": validate(model)}
        if place.rank == 0:
            write_json(note, by_lr[f"{rate:g}"], once=True)
        if best is None or by_lr[f"{rate:g}"]["val"] > best[1]:
            best = (rate, by_lr[f"{rate:g}"]["val"], model)
    assert best is not None
    tested = test(best[2])
    detail = tested.pop("detail", {})
    return {
        "metrics": tested,
        "values": {"chosen": {"lr": best[0]}, "by_lr": by_lr, **detail},
        "flags": at_edge("learning rate", best[0], rates) + all_tie(by_lr),
        "images": images * len(rates),
    }


def _part(place: Place, index: int, parts: int) -> Callable[[int, int], None]:
    """Progress of one training among several, as progress of the whole."""
    return lambda step, steps: place.progress(index * steps + step, parts * steps)


def all_tie(by_lr: dict[str, dict[str, float]]) -> list[str]:
    """A flag where no learning rate was better than another: nothing was learned, or nothing was chosen."""
    if len(by_lr) > 1 and len({v["val"] for v in by_lr.values()}) == 1:
        return ["all learning rates tie on held-out images: none was chosen for being better"]
    return []


@torch.inference_mode()
def accuracy(model: Classifier, images: Images, place: Place, bf16: bool) -> float:
    model.eval()
    device = place.device
    correct = []
    for start in range(0, len(images), BATCH):
        place.breathe()
        index = range(start, min(start + BATCH, len(images)))
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            scores = model.logits(images.plain(index).to(device))
        correct.append(scores.argmax(-1).cpu() == torch.from_numpy(images.labels[start : start + len(index)]))
    return percent(torch.cat(correct))
