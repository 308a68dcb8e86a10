"""Segmentation with mmsegmentation: its data sets, its UPerNet on four blocks of the encoder, its mIoU."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
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

from mimbench.data.sampling import derive
from mimbench.data.segmentation import Seeded, open_split
from mimbench.data.sources import opened
from mimbench.data.views import MEAN, STD
from mimbench.evals.common import EncoderUnderTest
from mimbench.evals.sweep import sweep
from mimbench.models.encoder import Encoder, tapped_blocks
from mimbench.pretrain.fit import Objective
from mimbench.runtime import Runtime

BATCH = 50  # of the evaluation


class Backbone(nn.Module):
    """The encoder as mmsegmentation expects a backbone: four maps of raw block outputs, without the class token."""

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
    """mmsegmentation's EncoderDecoder as an objective of `fit`."""

    def __init__(self, encoder: Encoder, classes: int, settings: dict[str, Any], seed: int, size: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "segmentation head"))
            self.model = _upernet(encoder.dim, classes, settings, size)
            MMLogger.get_current_instance().setLevel(logging.WARNING)  # init_weights logs every parameter
            self.model.init_weights()
        self.model.backbone = Backbone(encoder)
        self.model.to(memory_format=torch.channels_last)  # convolutions are faster so on a CPU

    def prepare(self, batch: list[dict[str, Any]], step: int, runtime: Runtime) -> list[Any]:
        size, share = runtime.micro_batch or len(batch), 1 / (len(batch) * runtime.world)
        parts = [batch[start : start + size] for start in range(0, len(batch), size)]
        return [{"data": pseudo_collate(part), "share": len(part) * share} for part in parts]

    def forward(self, micro: dict[str, Any]) -> Tensor:
        data = self.model.data_preprocessor(micro["data"], True)
        loss, _ = self.model.parse_losses(self.model(**data, mode="loss"))
        return loss * micro["share"]


# Types are classes, not names: mmengine looks names up in the scope that its last Runner left behind.


def _upernet(dim: int, classes: int, settings: dict[str, Any], size: int) -> EncoderDecoder:
    first = settings["first_class_weight"]
    weights = {} if first == 1.0 else {"class_weight": [first] + [1.0] * (classes - 1)}
    norm = {"type": "SyncBN" if torch.distributed.is_initialized() else "BN", "requires_grad": True}
    head = {"num_classes": classes, "norm_cfg": norm, "align_corners": False, "dropout_ratio": 0.1}
    return EncoderDecoder(
        data_preprocessor={"type": SegDataPreProcessor, **preprocessor(size)},
        backbone={"type": nn.Identity},  # until the encoder replaces it
        neck={"type": Feature2Pyramid, "embed_dim": dim, "rescales": settings["rescales"], "norm_cfg": norm},
        decode_head={"type": UPerHead, "in_channels": [dim] * 4, "in_index": [0, 1, 2, 3], "pool_scales": (1, 2, 3, 6),
                     "channels": settings["channels"], **head,
                     "loss_decode": {"type": CrossEntropyLoss, "use_sigmoid": False, "loss_weight": 1.0, **weights}},
        auxiliary_head={"type": FCNHead, "in_channels": dim, "in_index": 2, "num_convs": 1, "concat_input": False,
                        "channels": settings["auxiliary_channels"], **head,
                        "loss_decode": {"type": CrossEntropyLoss, "use_sigmoid": False, "loss_weight": 0.4, **weights}},
        test_cfg=ConfigDict(**sliding_window(size)),
    )  # fmt: skip


def preprocessor(size: int) -> dict[str, Any]:
    return {"mean": [255 * v for v in MEAN], "std": [255 * v for v in STD], "bgr_to_rgb": True, "pad_val": 0,
            "seg_pad_val": 255, "size": (size, size), "test_cfg": {"size": (size, size)}}  # fmt: skip


def sliding_window(size: int) -> dict[str, Any]:
    return {"mode": "slide", "crop_size": (size, size), "stride": (size * 2 // 3, size * 2 // 3)}


def pipeline(train: bool, settings: dict[str, Any], size: int, *, fixed_size: bool) -> list[dict[str, Any]]:
    """`fixed_size`: all images have the size of the crops."""
    load: list[dict[str, Any]] = [{"type": LoadImageFromFile}]
    masks: list[dict[str, Any]] = [{"type": LoadAnnotations, "reduce_zero_label": True}]
    pack: list[dict[str, Any]] = [{"type": PackSegInputs, "meta_keys": ("ori_shape", "img_shape", "pad_shape")}]
    resize: dict[str, Any] = {"scale": tuple(settings["resize"] or ()), "keep_ratio": True}
    if not train:
        return [*load, *([{"type": Resize, **resize}] if settings["resize"] else []), *masks, *pack]
    augment: list[dict[str, Any]] = []
    if settings["resize"]:
        augment.append({"type": RandomResize, "ratio_range": (0.5, 2.0), **resize})
    if settings["resize"] or not fixed_size:
        augment.append({"type": RandomCrop, "crop_size": (size, size), "cat_max_ratio": 0.75})
    augment.append({"type": RandomFlip, "prob": 0.5})
    if settings["photometric"]:
        augment.append({"type": PhotoMetricDistortion})
    return [*load, *masks, *augment, *pack]


def evaluate(under_test: EncoderUnderTest, settings: dict[str, Any], runtime: Runtime) -> dict[str, Any]:
    images, size = opened(under_test.segmentation_data), settings["crop"] or under_test.data.size
    counts = under_test.counts
    root = images.segmentation_root(under_test.data, counts, under_test.cache)
    train, val, test = (
        open_split(
            root, split, pipeline(split == "labeled", settings, size, fixed_size=images.fixed_size), counts[split]
        )
        for split in ("labeled", "val", "test")
    )
    classes = len(train.metainfo["classes"])
    seed, bf16 = derive(under_test.seed, "segmentation"), settings["precision"] == "bf16"
    return sweep(
        under_test, settings, runtime, seed=seed, dataset=Seeded(train, seed), size=len(train),
        make_model=lambda encoder: Segmenter(encoder, classes, settings, under_test.seed, size),
        validate=lambda model: measure(model.model, val, runtime, bf16)["miou"],
        test=lambda model: measure(model.model, test, runtime, bf16),
    )  # fmt: skip


def _of_one_size(dataset: Any) -> Iterator[list[dict[str, Any]]]:
    """Samples in order, in batches of one image size each, as mmsegmentation's preprocessor requires."""
    samples = (dataset[index] for index in range(len(dataset)))
    for _, same in itertools.groupby(samples, key=lambda sample: sample["inputs"].shape):
        while group := list(itertools.islice(same, BATCH)):
            yield group


@torch.inference_mode()
def measure(network: EncoderDecoder, dataset: Any, runtime: Runtime, bf16: bool) -> dict[str, Any]:
    """mIoU, mean accuracy and pixel accuracy by mmsegmentation's IoUMetric, in percent."""
    network.eval()
    metric = IoUMetric(iou_metrics=["mIoU"])
    metric.dataset_meta = dataset.metainfo
    for group in _of_one_size(dataset):
        runtime.raise_if_stopping()
        batch = pseudo_collate(group)
        data = network.data_preprocessor(batch, False)
        with torch.autocast(runtime.device.type, torch.bfloat16, enabled=bf16):
            samples = network(**data, mode="predict")
        metric.process(batch, [sample.to_dict() for sample in samples])
    intersect, union, _, _ = (sum(column).double().numpy() for column in zip(*metric.results, strict=True))
    summary = metric.compute_metrics(
        metric.results
    )  # not `evaluate`: it gathers over ranks, and each has measured all images
    with np.errstate(invalid="ignore", divide="ignore"):
        per_class = 100 * intersect / union
    names = dataset.metainfo["classes"]
    return {
        "miou": float(np.nanmean(per_class)),
        "mean_accuracy": float(summary["mAcc"]),
        "pixel_accuracy": float(summary["aAcc"]),
        "detail": {"per_class": {n: None if np.isnan(v) else float(v) for n, v in zip(names, per_class, strict=True)}},
    }
