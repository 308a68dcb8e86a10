"""Segmentation with mmsegmentation: its data sets, its heads on four blocks of the encoder, its mIoU."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from mmcv.transforms import LoadImageFromFile, RandomFlip, RandomResize, Resize, TestTimeAug
from mmengine.dataset import pseudo_collate
from mmengine.logging import MMLogger
from mmseg.datasets.transforms import LoadAnnotations, PackSegInputs, PhotoMetricDistortion, RandomCrop
from mmseg.evaluation import IoUMetric
from mmseg.models import EncoderDecoder, SegTTAModel
from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn

from mimbench.data.sampling import derive
from mimbench.data.segmentation import Seeded, open_split
from mimbench.data.sources import opened
from mimbench.evals.common import EncoderUnderTest
from mimbench.evals.segmentation_heads import has_stages, segmentor
from mimbench.evals.sweep import sweep
from mimbench.models.encoder import Encoder
from mimbench.pretrain.fit import Objective
from mimbench.runtime import Runtime

BATCH = 50  # of the evaluation
META = ("ori_shape", "img_shape", "pad_shape")  # what predictions are brought back to full resolution by


class Backbone(nn.Module):
    """The encoder as mmsegmentation expects a backbone: four maps of raw block outputs; of stages, each normalized."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        encoder.body.norm = nn.Identity()  # the maps are raw; an unused norm would have no gradient
        self.encoder, dims = encoder, encoder.map_dims()
        self.norms = nn.ModuleList([LayerNorm2d(dim) if has_stages(dims) else nn.Identity() for dim in dims])

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps = self.encoder.maps(images)
        return tuple(norm(each).contiguous() for norm, each in zip(self.norms, maps, strict=True))


class Segmenter(Objective):
    """mmsegmentation's EncoderDecoder as an objective of `fit`."""

    def __init__(self, encoder: Encoder, classes: int, settings: dict[str, Any], seed: int, size: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "segmentation head"))
            self.model = segmentor(encoder.map_dims(), classes, settings, size)
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


def pipeline(train: bool, settings: dict[str, Any], size: int, *, fixed_size: bool) -> list[dict[str, Any]]:
    """`fixed_size`: all images have the size of the crops."""
    load: list[dict[str, Any]] = [{"type": LoadImageFromFile}]
    masks: list[dict[str, Any]] = [{"type": LoadAnnotations, "reduce_zero_label": True}]
    pack: list[dict[str, Any]] = [{"type": PackSegInputs, "meta_keys": META}]
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


def multi_scale_pipeline(settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Each image at every one of `test_ratios`, with `test_flip` mirrored too, as mmsegmentation's augmented test has it."""
    scale = settings["resize"]
    resizes = [
        {"type": Resize, "keep_ratio": True,
         **({"scale": tuple(round(ratio * side) for side in scale)} if scale else {"scale_factor": ratio})}
        for ratio in settings["test_ratios"]
    ]  # fmt: skip
    flips = [{"type": RandomFlip, "prob": float(flip)} for flip in range(2 if settings["test_flip"] else 1)]
    masks = [{"type": LoadAnnotations, "reduce_zero_label": True}]
    pack = [{"type": PackSegInputs, "meta_keys": (*META, "img_path", "flip", "flip_direction")}]
    return [{"type": LoadImageFromFile}, {"type": TestTimeAug, "transforms": [resizes, flips, masks, pack]}]


def evaluate(under_test: EncoderUnderTest, settings: dict[str, Any], runtime: Runtime) -> dict[str, Any]:
    images, size = opened(under_test.segmentation_data), settings["crop"] or under_test.data.size
    counts, fixed_size = under_test.counts, images.fixed_size and size == under_test.data.size
    root = images.segmentation_root(under_test.data, counts, under_test.cache)
    left_out = images.segmentation_left_out(under_test.cache)
    transforms = {split: pipeline(split == "labeled", settings, size, fixed_size=fixed_size) for split in counts}
    several = settings["test_ratios"] != [1.0] or settings["test_flip"]
    if several:  # in the test alone: what is chosen on held-out images takes one scale
        transforms["test"] = multi_scale_pipeline(settings)
    train, val, test = (
        open_split(root, split, transforms[split], counts[split], left_out) for split in ("labeled", "val", "test")
    )
    classes = len(train.metainfo["classes"])
    seed, bf16 = derive(under_test.seed, "segmentation"), settings["precision"] == "bf16"
    return sweep(
        under_test, settings, runtime, seed=seed, dataset=Seeded(train, seed), size=len(train),
        make_model=lambda encoder: Segmenter(encoder, classes, settings, under_test.seed, size),
        validate=lambda model: measure(model.model, val, runtime, bf16)["miou"],
        test=lambda model: measure(model.model, test, runtime, bf16, several=several),
    )  # fmt: skip


def _of_one_size(dataset: Any) -> Iterator[list[dict[str, Any]]]:
    """Samples in order, in batches of one image size each, as mmsegmentation's preprocessor requires."""
    samples = (dataset[index] for index in range(len(dataset)))
    for _, same in itertools.groupby(samples, key=lambda sample: sample["inputs"].shape):
        while group := list(itertools.islice(same, BATCH)):
            yield group


@torch.inference_mode()
def measure(
    network: EncoderDecoder, dataset: Any, runtime: Runtime, bf16: bool, *, several: bool = False
) -> dict[str, Any]:
    """mIoU, mean accuracy and pixel accuracy by mmsegmentation's IoUMetric, in percent. `several`: views of each image."""
    network.eval()
    metric = IoUMetric(iou_metrics=["mIoU"])
    metric.dataset_meta = dataset.metainfo
    averaging = SegTTAModel(network) if several else None
    for group in ([dataset[index]] for index in range(len(dataset))) if several else _of_one_size(dataset):
        runtime.raise_if_stopping()
        batch = pseudo_collate(group)
        with torch.autocast(runtime.device.type, torch.bfloat16, enabled=bf16):
            if averaging is not None:
                samples = averaging.test_step(batch)
            else:
                samples = network(**network.data_preprocessor(batch, False), mode="predict")
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
