"""Segmentation with mmsegmentation: UPerNet on four blocks through a deconvolution neck, its data sets and its mIoU."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmcv.transforms import LoadImageFromFile, RandomFlip, RandomResize, Resize
from mmengine.config import ConfigDict
from mmengine.dataset import pseudo_collate
from mmengine.logging import MMLogger
from mmseg.datasets.transforms import LoadAnnotations, PackSegInputs, PhotoMetricDistortion, RandomCrop
from mmseg.evaluation import IoUMetric
from mmseg.models import CrossEntropyLoss, EncoderDecoder, FCNHead, Feature2Pyramid, SegDataPreProcessor, UPerHead
from torch import Tensor, nn

from mimbench.data.loading import batches
from mimbench.data.sampling import BatchSampler, derive
from mimbench.data.sources import ade20k as ade
from mimbench.data.sources.images import MEAN, STD, segmentation_root
from mimbench.evals.common import Subject
from mimbench.evals.finetune import images_seen, layer_decay, schedule_of, sweep
from mimbench.models.encoder import Encoder
from mimbench.pretrain.fit import Objective, Place, fit

BATCH = 50  # of the evaluation


def tapped_blocks(depth: int) -> tuple[int, ...]:
    """Blocks at a third, a half, two thirds and the end: 3, 5, 7, 11 of 12; 7, 11, 15, 23 of 24."""
    return tuple(max(0, round(depth * share) - 1) for share in (1 / 3, 1 / 2, 2 / 3, 1))


class Backbone(nn.Module):
    """The encoder as mmsegmentation wants it: four maps of raw block outputs, without the class token."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        encoder.body.norm = nn.Identity()  # the taps are raw; an unused norm would have no gradient
        self.encoder = encoder

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        grid, blocks = self.encoder.grid, tapped_blocks(self.encoder.depth)
        taps = self.encoder(images, taps=blocks).taps
        maps = [taps[b][:, 1:].transpose(1, 2).unflatten(2, (grid.rows, grid.columns)) for b in blocks]
        return tuple(m.contiguous() for m in maps)


class Segmenter(Objective):
    """mmsegmentation's EncoderDecoder as an objective of the common loop."""

    def __init__(self, encoder: Encoder, classes: int, settings: dict[str, Any], seed: int, size: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "segmentation head"))
            self.model = _upernet(encoder.dim, classes, settings, size)
            MMLogger.get_current_instance().setLevel(logging.WARNING)  # init_weights logs every parameter
            self.model.init_weights()
        self.model.backbone = Backbone(encoder)

    def prepare(self, batch: list[dict[str, Any]], step: int, place: Place) -> list[Any]:
        size, share = min(place.micro_batch or len(batch), len(batch)), 1 / (len(batch) * place.world)
        cut = [batch[start : start + size] for start in range(0, len(batch), size)]
        return [{"data": pseudo_collate(part), "share": len(part) * share} for part in cut]

    def forward(self, micro: dict[str, Any]) -> Tensor:
        data = self.model.data_preprocessor(micro["data"], True)
        loss, _ = self.model.parse_losses(self.model(**data, mode="loss"))
        return loss * micro["share"]


# Classes instead of names throughout: mmengine looks names up in whatever scope its last Runner left behind.


def _upernet(dim: int, classes: int, settings: dict[str, Any], size: int) -> EncoderDecoder:
    first = settings["first_class_weight"]
    weights = {} if first == 1.0 else {"class_weight": [first] + [1.0] * (classes - 1)}
    norm = {"type": "SyncBN" if torch.distributed.is_initialized() else "BN", "requires_grad": True}
    head = {"num_classes": classes, "norm_cfg": norm, "align_corners": False, "dropout_ratio": 0.1}
    return EncoderDecoder(
        data_preprocessor={"type": SegDataPreProcessor, "mean": [255 * v for v in MEAN], "std": [255 * v for v in STD],
                           "bgr_to_rgb": True, "pad_val": 0, "seg_pad_val": 255, "size": (size, size),
                           "test_cfg": {"size": (size, size)}},
        backbone={"type": _Placeholder},
        neck={"type": Feature2Pyramid, "embed_dim": dim, "rescales": settings["rescales"], "norm_cfg": norm},
        decode_head={"type": UPerHead, "in_channels": [dim] * 4, "in_index": [0, 1, 2, 3], "pool_scales": (1, 2, 3, 6),
                     "channels": settings["channels"], **head,
                     "loss_decode": {"type": CrossEntropyLoss, "use_sigmoid": False, "loss_weight": 1.0, **weights}},
        auxiliary_head={"type": FCNHead, "in_channels": dim, "in_index": 2, "num_convs": 1, "concat_input": False,
                        "channels": settings["auxiliary_channels"], **head,
                        "loss_decode": {"type": CrossEntropyLoss, "use_sigmoid": False, "loss_weight": 0.4, **weights}},
        test_cfg=ConfigDict(mode="slide", crop_size=(size, size), stride=(size * 2 // 3, size * 2 // 3)),
    )  # fmt: skip


class _Placeholder(nn.Module):
    """Stands where mmsegmentation builds a backbone from a config; ours is an object and is put in afterwards."""


def _pipeline(train: bool, settings: dict[str, Any], size: int, uniform: bool) -> list[dict[str, Any]]:
    """`uniform`: all images have the size of the crops already, as the embedded ones."""
    load: list[dict[str, Any]] = [{"type": LoadImageFromFile}]
    masks: list[dict[str, Any]] = [{"type": LoadAnnotations, "reduce_zero_label": True}]
    pack: list[dict[str, Any]] = [{"type": PackSegInputs, "meta_keys": ("ori_shape", "img_shape", "pad_shape")}]
    if not train:
        scale = settings["resize"]
        return [*load, *([{"type": Resize, "scale": tuple(scale), "keep_ratio": True}] if scale else []), *masks, *pack]
    augment: list[dict[str, Any]] = []
    if settings["resize"]:
        augment.append(
            {"type": RandomResize, "scale": tuple(settings["resize"]), "ratio_range": (0.5, 2.0), "keep_ratio": True}
        )
    if settings["resize"] or not uniform:
        augment.append({"type": RandomCrop, "crop_size": (size, size), "cat_max_ratio": 0.75})
    augment.append({"type": RandomFlip, "prob": 0.5})
    if settings["photometric"]:
        augment.append({"type": PhotoMetricDistortion})
    return [*load, *masks, *augment, *pack]


def evaluate(subject: Subject, settings: dict[str, Any], place: Place) -> dict[str, Any]:
    root, size = _root(subject), settings["crop"] or subject.data.size
    uniform = subject.segmentation_data == "shapes"
    splits = {
        s: ade.dataset(root, s, _pipeline(s == "labelled", settings, size, uniform), subject.counts[s])
        for s in ade.FOLDERS
    }
    train, classes = splits["labelled"], splits["labelled"].metainfo["classes"]

    def train_one(rate: float, name: str, place: Place) -> Segmenter:
        encoder = subject.encoder(drop_path=settings["drop_path"], size=size)
        model = Segmenter(encoder, len(classes), settings, subject.seed, size)
        schedule = schedule_of(settings, rate, len(train))
        seed = derive(subject.seed, "segmentation")
        sampler = lambda start: BatchSampler(len(train), schedule.batch, schedule.steps, seed, start=start,
                                             rank=place.rank, world=place.world)  # fmt: skip
        stream: Callable[[int], Iterator[Any]] = lambda start: batches(
            ade.Seeded(train, seed), sampler(start), workers=place.workers
        )
        decay = layer_decay(encoder, settings["layer_decay"])
        scale: Callable[[str], float] = lambda n: decay(n.removeprefix("model.backbone."))
        fit(model, stream, schedule, subject.work / name, seed, place, lr_scale=scale)
        return model

    bf16 = settings["precision"] == "bf16"
    return sweep(
        subject, settings, place, train_one, images=images_seen(settings, len(train)),
        validate=lambda model: measure(model, splits["val"], place, bf16)["miou"],
        test=lambda model: _with_detail(measure(model, splits["test"], place, bf16)),
    )  # fmt: skip


def _with_detail(measured: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in measured.items() if k != "per_class"} | {"detail": {"per_class": measured["per_class"]}}


def _root(subject: Subject) -> Path:
    if subject.segmentation_data == "shapes":
        return ade.write_shapes(subject.data, subject.counts, subject.cache)
    return segmentation_root(subject.segmentation_data)


def _alike(dataset: Any) -> Iterator[list[dict[str, Any]]]:
    """Samples in order, as batches of one image size each, as mmsegmentation's preprocessor wants them."""
    batch: list[dict[str, Any]] = []
    for index in range(len(dataset)):
        sample = dataset[index]
        if batch and (len(batch) == BATCH or sample["inputs"].shape != batch[0]["inputs"].shape):
            yield batch
            batch = []
        batch.append(sample)
    if batch:
        yield batch


@torch.inference_mode()
def measure(model: Segmenter, dataset: Any, place: Place, bf16: bool) -> dict[str, Any]:
    """mIoU, mean accuracy and pixel accuracy by mmsegmentation's IoUMetric, in per cent."""
    network = model.model.eval()
    metric = IoUMetric(iou_metrics=["mIoU"])
    metric.dataset_meta = dataset.metainfo
    for samples_alike in _alike(dataset):
        place.breathe()
        batch = pseudo_collate(samples_alike)
        data = network.data_preprocessor(batch, False)
        with torch.autocast(place.device.type, torch.bfloat16, enabled=bf16):
            samples = network(**data, mode="predict")
        metric.process(batch, [sample.to_dict() for sample in samples])
    totals = [sum(column) for column in zip(*metric.results, strict=True)]
    intersect, union, _, _ = (t.double().numpy() for t in totals)
    summary = metric.compute_metrics(metric.results)  # `evaluate` would gather them, but every rank measured everything
    with np.errstate(invalid="ignore", divide="ignore"):
        per_class = 100 * intersect / union
    names = dataset.metainfo["classes"]
    return {
        "miou": float(np.nanmean(per_class)),
        "mean_accuracy": float(summary["mAcc"]),
        "pixel_accuracy": float(summary["aAcc"]),
        "per_class": {n: None if np.isnan(v) else float(v) for n, v in zip(names, per_class, strict=True)},
    }
