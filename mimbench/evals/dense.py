"""Frozen patch features with the labels of their pixels, and how a head on them is tested.

To train and to choose, each image gives one rendering of the training pipeline, and the score is mIoU with one class per
patch. The test is that of `segmentation`: sliding windows, scores brought to full resolution, mmsegmentation's mIoU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmengine.dataset import pseudo_collate
from mmseg.models import EncoderDecoder, SegDataPreProcessor
from mmseg.models.segmentors import BaseSegmentor
from torch import Tensor

from mimbench.data.sampling import derive
from mimbench.data.segmentation import Seeded, open_split
from mimbench.data.sources import opened
from mimbench.errors import RunFailed
from mimbench.evals.common import EncoderUnderTest
from mimbench.evals.features import offered_blocks, standardization
from mimbench.evals.segmentation import measure, pipeline
from mimbench.evals.segmentation_heads import preprocessor, sliding_window
from mimbench.models.encoder import Encoder
from mimbench.runtime import Runtime

BATCH = 50
Score = Callable[[Tensor], Tensor]  # standardized features of one layer (n, D) -> scores (n, classes)


class Patches(NamedTuple):
    features: Tensor  # (layers, n, D), standardized per layer and feature by the statistics of the training split
    pixels: Tensor  # (n, classes): how many of a patch's pixels have each class


class Dense:
    """The patches to train and to choose on, and the test."""

    def __init__(self, under_test: EncoderUnderTest, settings: dict[str, Any], runtime: Runtime) -> None:
        self.settings, self.runtime = settings, runtime
        self.size = settings["crop"] or under_test.data.size
        self.images = opened(under_test.segmentation_data)
        self.fixed_size = self.images.fixed_size and self.size == under_test.data.size
        self.root = self.images.segmentation_root(under_test.data, under_test.counts, under_test.cache)
        self.left_out = self.images.segmentation_left_out(under_test.cache)
        self.counts, self.seed = under_test.counts, derive(under_test.seed, "dense")
        self.encoder = under_test.encoder(size=settings["crop"]).eval().to(runtime.device)
        self.layers = offered_blocks(self.encoder)
        self.preprocess = SegDataPreProcessor(**preprocessor(self.size)).to(runtime.device)
        self.train, self.classes = self._patches("labeled")
        self.val, _ = self._patches("val")
        self.mean, self.std = standardization(self.train.features)
        for patches in (self.train, self.val):
            patches.features.sub_(self.mean).div_(self.std)

    def _open(self, split: str, *, train: bool) -> Any:
        transforms = pipeline(train, self.settings, self.size, fixed_size=self.fixed_size)
        return open_split(self.root, split, transforms, self.counts[split], self.left_out)

    @torch.no_grad()
    def _patches(self, split: str) -> tuple[Patches, int]:
        """Those with a label, before standardization; and the number of classes."""
        dataset = self._open(split, train=True)
        seeded, classes = Seeded(dataset, self.seed), len(dataset.metainfo["classes"])
        features, pixels = [], []
        for start in range(0, len(dataset), BATCH):
            self.runtime.raise_if_stopping()
            keys = [(0, index) for index in range(start, min(start + BATCH, len(dataset)))]
            data = self.preprocess(pseudo_collate(seeded.__getitems__(keys)), True)
            found = torch.stack(patch_features(self.encoder, data["inputs"], self.layers)).flatten(1, 2).cpu()
            labels = torch.stack([sample.gt_sem_seg.data[0] for sample in data["data_samples"]]).cpu()
            counted = class_pixels(labels, self.encoder.grid.patch, classes)
            labeled = counted.sum(1) > 0
            features.append(found[:, labeled])
            pixels.append(counted[labeled])
        if not sum(map(len, pixels)):
            raise RunFailed(f"{self.root}: no labeled pixel in the images of {split}")
        return Patches(torch.cat(features, dim=1), torch.cat(pixels)), classes

    def held_out_miou(self, predicted: Tensor) -> float:
        """Of one class per patch of the held-out images, (n,)."""
        return patch_miou(predicted, self.val.pixels)

    def test(self, layer: int, score: Score) -> dict[str, Any]:
        """`layer`: an index into `layers`."""
        mean, std = self.mean[layer].to(self.runtime.device), self.std[layer].to(self.runtime.device)

        def scores(images: Tensor) -> Tensor:
            (features,) = patch_features(self.encoder, images, (self.layers[layer],))
            found = score(((features - mean) / std).flatten(0, 1)).unflatten(0, features.shape[:2])
            return found.transpose(1, 2).unflatten(2, (self.encoder.grid.rows, self.encoder.grid.columns))

        network = PatchSegmenter(scores, self.classes, self.size).to(self.runtime.device)
        return measure(network, self._open("test", train=False), self.runtime, bf16=False)


class PatchSegmenter(EncoderDecoder):
    """mmsegmentation's inference, with sliding windows, over the scores of patches."""

    def __init__(self, scores: Callable[[Tensor], Tensor], classes: int, size: int) -> None:
        # not EncoderDecoder's own: it builds a backbone and heads, and these scores need neither
        BaseSegmentor.__init__(self, data_preprocessor={"type": SegDataPreProcessor, **preprocessor(size)})
        self.scores, self.test_cfg = scores, ConfigDict(**sliding_window(size))
        self.num_classes = self.out_channels = classes
        self.align_corners = False

    def encode_decode(self, inputs: Tensor, batch_img_metas: list[dict[str, Any]]) -> Tensor:
        return F.interpolate(self.scores(inputs), size=inputs.shape[2:], mode="bilinear", align_corners=False)


def patch_features(encoder: Encoder, images: Tensor, layers: tuple[int, ...]) -> list[Tensor]:
    """Of each layer (B, N, D), float32."""
    taps = encoder(images, taps=layers).taps
    return [taps[layer][:, 1:].float() for layer in layers]


def class_pixels(labels: Tensor, patch: int, classes: int) -> Tensor:
    """Class of every pixel (B, H, W), 255 where there is none -> pixels of each class in each patch (B * N, classes)."""
    cut = labels.unflatten(2, (-1, patch)).unflatten(1, (-1, patch))  # (B, rows, patch, columns, patch)
    cut = cut.permute(0, 1, 3, 2, 4).flatten(3).flatten(0, 2).long()  # (B * N, patch * patch)
    return torch.zeros(len(cut), 256).scatter_add_(1, cut, torch.ones(cut.shape))[:, :classes]


def patch_miou(predicted: Tensor, pixels: Tensor) -> float:
    """Mean IoU over the classes that occur, in percent, where each patch has one predicted class."""
    classes = pixels.shape[1]
    confusion = F.one_hot(predicted, classes).to(pixels.dtype).T @ pixels  # (predicted, true)
    hit = confusion.diag()
    union = confusion.sum(0) + confusion.sum(1) - hit
    return float((hit / union)[union > 0].double().mean() * 100)
