"""Fine-tuning of the whole network."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from mimbench.data.loading import Keyed
from mimbench.data.sampling import derive
from mimbench.data.views import Images, normalize
from mimbench.evals.common import EncoderUnderTest, labeled_micro_batches, percent, predictions
from mimbench.evals.regularize import Augmented, Mix
from mimbench.evals.sweep import sweep
from mimbench.models.encoder import Encoder
from mimbench.pretrain.fit import Objective
from mimbench.runtime import Runtime

BATCH = 250  # of the evaluation


class Classifier(Objective):
    """Encoder, pooling, a new LayerNorm, a linear head; with `ema`, the moving average of all of it, which is tested."""

    ema: Any

    def __init__(self, encoder: Encoder, pooling: str, classes: int, settings: dict[str, Any], seed: int) -> None:
        super().__init__()
        encoder.body.norm = nn.Identity()  # fc_norm replaces it, as in BEiT and MAE
        self.encoder, self.pooling, self.label_smoothing = encoder, pooling, settings["label_smoothing"]
        width = encoder.dim * (2 if pooling == "both" else 1)
        self.fc_norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, classes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "head"))
            nn.init.trunc_normal_(self.head.weight, std=settings["head_std"])
            nn.init.zeros_(self.head.bias)
        self.mix = None
        if settings["mixup"] or settings["cutmix"]:  # which smooth the labels themselves
            self.mix = Mix(settings["mixup"], settings["cutmix"], self.label_smoothing, classes, seed)
            self.label_smoothing = 0.0
        self.ema = None
        if settings["ema"] is not None:
            from timm.utils.model_ema import ModelEmaV3

            self.ema = ModelEmaV3(self, settings["ema"]).requires_grad_(False)

    @property
    def tested(self) -> Classifier:
        return self if self.ema is None else self.ema.module

    def prepare(self, batch: dict[str, Tensor], step: int, runtime: Runtime) -> list[Any]:
        return labeled_micro_batches(batch if self.mix is None else self.mix(batch, step), runtime)

    def after_step(self, step: int, world: int) -> None:
        if self.ema is not None:
            self.ema.update(self)

    def logits(self, raw: Tensor) -> Tensor:
        last = self.encoder.depth - 1
        tokens = self.encoder(normalize(raw), taps=(last,)).taps[last]
        return self.head(self.fc_norm(self.encoder.pooled(tokens, self.pooling)))

    def forward(self, micro: dict[str, Any]) -> Tensor:
        logits = self.logits(micro["raw"]).float()
        loss = F.cross_entropy(logits, micro["label"], label_smoothing=self.label_smoothing, reduction="sum")
        return loss * micro["share"]


def evaluate(under_test: EncoderUnderTest, settings: dict[str, Any], runtime: Runtime) -> dict[str, Any]:
    train, val, test = (under_test.images(split) for split in ("labeled", "val", "test"))
    seed, bf16 = derive(under_test.seed, "finetune"), settings["precision"] == "bf16"
    pooling = settings["pooling"] or under_test.pooling
    dataset: Dataset[Any] = Keyed(train, seed)
    if settings["rand_augment"] is not None or settings["erasing"]:
        dataset = Augmented(Keyed(train, seed), under_test.data.size, settings["rand_augment"], settings["erasing"])
    return sweep(
        under_test, settings, runtime, seed=seed, dataset=dataset, size=len(train),
        make_model=lambda encoder: Classifier(encoder, pooling, train.classes, settings, under_test.seed),
        validate=lambda model: accuracy(model, val, runtime, bf16),
        test=lambda model: {"accuracy": accuracy(model, test, runtime, bf16)},
    )  # fmt: skip


def accuracy(model: Classifier, images: Images, runtime: Runtime, bf16: bool) -> float:
    model.eval()
    logits = model.tested.logits
    predicted = predictions(lambda raw: logits(raw).argmax(-1), images, BATCH, runtime, bf16=bf16)
    return percent(predicted == torch.from_numpy(images.labels))
