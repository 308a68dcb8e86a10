"""mmsegmentation's networks around the encoder: UPerNet, as in BEiT's code, or SETR-PUP, as in its paper.

Types are classes, not names: mmengine looks names up in the scope that its last Runner left behind.
"""

from __future__ import annotations

from typing import Any

import torch
from mmengine.config import ConfigDict
from mmseg.models import CrossEntropyLoss, EncoderDecoder, FCNHead, Feature2Pyramid, SegDataPreProcessor, UPerHead
from mmseg.models.decode_heads import SETRUPHead
from torch import nn

from mimbench.data.views import MEAN, STD


def has_stages(dims: tuple[int, ...]) -> bool:
    """Maps of several widths are a pyramid already."""
    return len(set(dims)) > 1


def segmentor(dims: tuple[int, ...], classes: int, settings: dict[str, Any], size: int) -> EncoderDecoder:
    norm = {"type": "SyncBN" if torch.distributed.is_initialized() else "BN", "requires_grad": True}
    first = settings["first_class_weight"]
    weights = {} if first == 1.0 else {"class_weight": [first] + [1.0] * (classes - 1)}
    loss = {"type": CrossEntropyLoss, "use_sigmoid": False, **weights}
    common = {"num_classes": classes, "norm_cfg": norm, "align_corners": False}
    parts = {"upernet": _upernet, "setr_pup": _setr_pup}[settings["head"]]
    return EncoderDecoder(
        data_preprocessor={"type": SegDataPreProcessor, **preprocessor(size)},
        backbone={"type": nn.Identity},  # until the encoder replaces it
        test_cfg=ConfigDict(**sliding_window(size)),
        **parts(dims, settings, common, loss),
    )


def _upernet(
    dims: tuple[int, ...], settings: dict[str, Any], common: dict[str, Any], loss: dict[str, Any]
) -> dict[str, Any]:
    head = {**common, "dropout_ratio": 0.1}
    neck = {
        "type": Feature2Pyramid,
        "embed_dim": dims[-1],
        "rescales": settings["rescales"],
        "norm_cfg": common["norm_cfg"],
    }
    return {
        **({} if has_stages(dims) else {"neck": neck}),
        "decode_head": {"type": UPerHead, "in_channels": list(dims), "in_index": [0, 1, 2, 3], "pool_scales": (1, 2, 3, 6),
                        "channels": settings["channels"], **head, "loss_decode": {**loss, "loss_weight": 1.0}},
        "auxiliary_head": {"type": FCNHead, "in_channels": dims[2], "in_index": 2, "num_convs": 1, "concat_input": False,
                           "channels": settings["auxiliary_channels"], **head, "loss_decode": {**loss, "loss_weight": 0.4}},
    }  # fmt: skip


def _setr_pup(
    dims: tuple[int, ...], settings: dict[str, Any], common: dict[str, Any], loss: dict[str, Any]
) -> dict[str, Any]:
    """As mmsegmentation configures it for ADE20K: four steps of a convolution and doubling; auxiliary heads of two by four."""
    head = {"type": SETRUPHead, "in_channels": dims[-1], "kernel_size": 3, "dropout_ratio": 0.0, **common}
    auxiliary = {
        **head,
        "num_convs": 2,
        "channels": settings["auxiliary_channels"],
        "loss_decode": {**loss, "loss_weight": 0.4},
    }
    return {
        "decode_head": {**head, "num_convs": 4, "up_scale": 2, "in_index": 3, "channels": settings["channels"],
                        "loss_decode": {**loss, "loss_weight": 1.0}},
        "auxiliary_head": [{**auxiliary, "in_index": index} for index in range(3)],
    }  # fmt: skip


def preprocessor(size: int) -> dict[str, Any]:
    return {"mean": [255 * v for v in MEAN], "std": [255 * v for v in STD], "bgr_to_rgb": True, "pad_val": 0,
            "seg_pad_val": 255, "size": (size, size), "test_cfg": {"size": (size, size)}}  # fmt: skip


def sliding_window(size: int) -> dict[str, Any]:
    return {"mode": "slide", "crop_size": (size, size), "stride": (size * 2 // 3, size * 2 // 3)}
