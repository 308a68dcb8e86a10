"""The kinds of run in one table: all that differs between them outside of what they compute. In the order of the work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Spec = dict[str, Any]


def _tokenizer_flops(spec: Spec) -> float:
    return spec["training"]["steps"] * spec["training"]["batch"] * 3.5e7  # of the dVAE at tiny, whatever its size


def _pretrain_flops(spec: Spec) -> float:
    schedule, encoder = spec["recipe"]["schedule"], spec["recipe"]["encoder"]
    return 3 * schedule["steps"] * schedule["batch"] * forward_flops(encoder, spec["recipe"]["data"]["size"])


def _extraction_flops(spec: Spec) -> float:
    """Features of all splits, once."""
    images = sum(count or 1000 for count in spec["counts"].values())
    return images * forward_flops(spec["encoder"], spec["data"]["size"])


def _sweep_flops(spec: Spec, per_image: float = 1.0) -> float:
    """One training per learning rate, a forward and a backward pass per image; then the held-out and test images."""
    settings = spec["protocol"]["settings"]
    trained = 3 * len(settings["learning_rates"]) * settings["epochs"] * (spec["counts"]["labeled"] or 1000)
    return _extraction_flops(spec) + per_image * trained * forward_flops(spec["encoder"], spec["data"]["size"])


def forward_flops(encoder: dict[str, Any], size: int) -> float:
    """One image through the blocks, without mask."""
    tokens, dim = (size // encoder["patch"]) ** 2 + 1, encoder["dim"]
    return 2 * tokens * encoder["depth"] * (12 * dim**2 + 2 * tokens * dim)


@dataclass(frozen=True)
class Kind:
    name: str
    version: int | None  # raised when its numbers change; None: the protocol has its own
    run: str  # module:function that executes it, imported when it is needed
    flops: Callable[[Spec], float]  # a rough figure for planning
    batch: Callable[[Spec], int | None]  # images of an optimizer step, over all ranks
    leaves_weights: bool = False  # its children need them
    reads_masks: bool = False  # of segmentation
    ranks: Literal["any", "gpu", "one"] = "any"  # gpu: several ranks on GPUs only


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("checkpoint", 1, "mimbench.run.checkpoint:import_weights", lambda spec: 0.0, lambda spec: None,
             leaves_weights=True, ranks="one"),
        Kind("tokenizer", 1, "mimbench.run.training:train_tokenizer", _tokenizer_flops,
             lambda spec: spec["training"]["batch"], leaves_weights=True),
        Kind("pretrain", 1, "mimbench.run.training:pretrain", _pretrain_flops,
             lambda spec: spec["recipe"]["schedule"]["batch"], leaves_weights=True),
        Kind("finetune", None, "mimbench.evals.finetune:evaluate", _sweep_flops,
             lambda spec: spec["protocol"]["settings"]["batch"]),
        # its neck and heads cost four times the encoder; its batch norm is shared by ranks on GPUs only
        Kind("segmentation", None, "mimbench.evals.segmentation:evaluate", lambda spec: _sweep_flops(spec, 5.0),
             lambda spec: spec["protocol"]["settings"]["batch"], reads_masks=True, ranks="gpu"),
        Kind("linear_probe", None, "mimbench.evals.linear_probe:evaluate", _extraction_flops, lambda spec: None, ranks="one"),
        Kind("knn", None, "mimbench.evals.knn:evaluate", _extraction_flops, lambda spec: None, ranks="one"),
    )
}  # fmt: skip
PROTOCOLS = tuple(kind.name for kind in KINDS.values() if kind.version is None)


def in_order(names: set[str]) -> list[str]:
    return [name for name in KINDS if name in names]
