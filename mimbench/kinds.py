"""The kinds of run in one table: all that differs between them outside of what they compute. In the order of the work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Spec = dict[str, Any]


def _pretrain_flops(spec: Spec) -> float:
    schedule, encoder = spec["recipe"]["schedule"], spec["recipe"]["encoder"]
    return 3 * schedule["steps"] * schedule["batch"] * forward_flops(encoder, spec["recipe"]["data"]["size"])


def _extraction_flops(spec: Spec) -> float:
    """Features of all splits, once."""
    return sum(spec["counts"].values()) * forward_flops(spec["encoder"], _side(spec))


def _sweep_flops(spec: Spec, per_image: float = 1.0) -> float:
    """One training per learning rate, a forward and a backward pass per image; then the held-out and test images."""
    settings = spec["protocol"]["settings"]
    epochs = settings["epochs"] * spec["counts"]["labeled"]
    images = settings["steps"] * settings["batch"] if settings.get("steps") else epochs
    trained = 3 * len(settings["learning_rates"]) * images
    return _extraction_flops(spec) + per_image * trained * forward_flops(spec["encoder"], _side(spec))


def _attentive_flops(spec: Spec) -> float:
    """The frozen encoder's forward pass, and about twice as much for the heads."""
    trained = 3 * spec["protocol"]["settings"]["epochs"] * spec["counts"]["labeled"]
    return _extraction_flops(spec) + trained * forward_flops(spec["encoder"], _side(spec))


def _side(spec: Spec) -> int:
    """Of the images that an evaluation sees."""
    return spec.get("protocol", {}).get("settings", {}).get("crop") or spec["data"]["size"]


def _little(spec: Spec) -> float:
    """On features that are there."""
    return 0.1 * _extraction_flops(spec)


def _batch(spec: Spec) -> int:
    return int(spec["protocol"]["settings"]["batch"])


def forward_flops(encoder: dict[str, Any], size: int) -> float:
    """One image through the blocks, without mask."""
    cells, total = size // encoder["patch"], 0.0
    for blocks, finer in _stages(encoder):
        tokens, dim = (cells * finer) ** 2 + (not encoder.get("stages")), encoder["dim"] // finer
        seen = encoder["window"] ** 2 if encoder.get("window") else tokens
        total += 2 * tokens * blocks * (12 * dim**2 + 2 * seen * dim)
    return total


def _stages(encoder: dict[str, Any]) -> list[tuple[int, int]]:
    """The blocks of each stage, and how many times finer its grid is than the last one's. A ViT is one stage."""
    stages = encoder.get("stages") or [encoder["depth"]]
    return [(blocks, 2 ** (len(stages) - 1 - index)) for index, blocks in enumerate(stages)]


def _encoder_floats(spec: Spec) -> float:
    """The weights of one encoder's blocks."""
    encoder = spec["encoder"] if "encoder" in spec else spec["recipe"]["encoder"]
    return float(sum(12 * blocks * (encoder["dim"] // finer) ** 2 for blocks, finer in _stages(encoder)))


def _pretrained_floats(spec: Spec) -> float:
    """The encoder, and a teacher that follows it."""
    follows = not (spec["recipe"].get("teacher") or {"frozen": True})["frozen"]
    return (1 + follows) * _encoder_floats(spec)


def _swept_floats(spec: Spec) -> float:
    """One encoder per learning rate, until the best is chosen."""
    return len(spec["protocol"]["settings"]["learning_rates"]) * _encoder_floats(spec)


def _feature_floats(spec: Spec) -> float:
    """Two poolings of every block, of all images."""
    return sum(spec["counts"].values()) * 2 * spec["encoder"]["depth"] * spec["encoder"]["dim"]


@dataclass(frozen=True)
class Kind:
    name: str
    version: int | None  # raised when its numbers change; None: the protocol has its own
    run: str  # module:function that executes it, imported when it is needed
    flops: Callable[[Spec], float]  # a rough figure for planning, of a spec as `plan.estimate.complete` makes it
    batch: Callable[[Spec], int | None]  # images of an optimizer step, over all ranks
    keeps: Callable[[Spec], float] = lambda spec: 0.0  # floats on disk, a rough figure too
    leaves_weights: bool = False  # its children need them
    builds_on: tuple[str, ...] = ()  # of an evaluation: `encoder`, and the kinds whose runs are its parents
    reads_masks: bool = False  # of segmentation
    ranks: Literal["any", "gpu", "one"] = "any"  # gpu: several ranks on GPUs only


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("checkpoint", 1, "mimbench.run.checkpoint:import_weights", lambda spec: 0.0, lambda spec: None, _encoder_floats,
             leaves_weights=True, ranks="one"),
        # its layers are its own affair: its FLOPs are counted (run/flops.py), and where nobody counts, left out
        Kind("tokenizer", 1, "mimbench.run.training:train_tokenizer", lambda spec: 0.0,
             lambda spec: spec["training"]["batch"], lambda spec: 2e5, leaves_weights=True),  # as many as the dVAE at tiny
        Kind("pretrain", 1, "mimbench.run.training:pretrain", _pretrain_flops,
             lambda spec: spec["recipe"]["schedule"]["batch"], _pretrained_floats, leaves_weights=True),
        Kind("features", 1, "mimbench.run.features:extract", _extraction_flops, lambda spec: None, _feature_floats,
             leaves_weights=True, builds_on=("encoder",), ranks="one"),
        Kind("linear_probe", None, "mimbench.evals.linear_probe:evaluate", _little, lambda spec: None,
             builds_on=("features",), ranks="one"),
        Kind("knn", None, "mimbench.evals.knn:evaluate", _little, lambda spec: None, builds_on=("features",), ranks="one"),
        Kind("attentive_probe", None, "mimbench.evals.attentive_probe:evaluate", _attentive_flops, _batch,
             builds_on=("encoder",)),
        Kind("linear_probe_beit", None, "mimbench.evals.linear_probe_beit:evaluate", _attentive_flops, _batch,
             builds_on=("encoder",)),
        Kind("linear_probe_mae", None, "mimbench.evals.linear_probe_mae:evaluate", _attentive_flops, _batch,
             builds_on=("encoder",), ranks="gpu"),
        # takes the pooling that the linear probe chose, unless its settings state one
        Kind("finetune", None, "mimbench.evals.finetune:evaluate", _sweep_flops, _batch, _swept_floats,
             builds_on=("encoder", "linear_probe")),
        Kind("finetuned", 1, "mimbench.run.finetuned:take_encoder", lambda spec: 0.0, lambda spec: None, _encoder_floats,
             leaves_weights=True, ranks="one"),
        # its neck and heads cost twice the encoder; its batch norm is shared by ranks on GPUs only
        Kind("segmentation", None, "mimbench.evals.segmentation:evaluate", lambda spec: _sweep_flops(spec, 3.0), _batch,
             _swept_floats, builds_on=("encoder",), reads_masks=True, ranks="gpu"),
        Kind("segmentation_linear", None, "mimbench.evals.segmentation_linear:evaluate", _extraction_flops,
             lambda spec: None, builds_on=("encoder",), reads_masks=True, ranks="one"),
        Kind("segmentation_knn", None, "mimbench.evals.segmentation_knn:evaluate", _extraction_flops, lambda spec: None,
             builds_on=("encoder",), reads_masks=True, ranks="one"),
    )
}  # fmt: skip
PROTOCOLS = tuple(kind.name for kind in KINDS.values() if kind.version is None)


def in_order(names: set[str]) -> list[str]:
    return [name for name in KINDS if name in names]


def builds_on(name: str, settings: Mapping[str, Any]) -> list[str]:
    """`encoder`, and the kinds behind an evaluation with these settings: none for a pooling that they state."""
    stated = settings.get("pooling") is not None
    return [behind for behind in KINDS[name].builds_on if not (stated and behind in PROTOCOLS)]
