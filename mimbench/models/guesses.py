"""What was taken for granted of a checkpoint, because neither its file nor its config says it."""

from __future__ import annotations

from typing import Any

from mimbench.config.schema import EncoderConfig
from mimbench.models.architecture import Described
from mimbench.models.foreign import Checkpoint

ALIKE = (
    "BEiT's files (half, or imagenet where only ImageNet-1k was used) and the fine-tuned ones of BEiT-2 and SimMIM (imagenet) "
    "cannot be told apart"
)


def guesses(checkpoint: Checkpoint, encoder: EncoderConfig, described: Described, stated: dict[str, Any]) -> list[str]:
    """A sentence for each, with the key that replaces it."""
    relative, found = encoder.relative_positions != "none", []
    if not (stated.get("normalization") or described.normalization or checkpoint.layout.normalization):
        why = ALIKE if relative else "nothing beside the tensors says how its images were normalized"
        found.append(_sentence("normalization", encoder.normalization, why))
    if not (stated.get("heads") or described.heads or relative):
        found.append(_sentence("heads", encoder.heads, "64 dimensions each, for no tensor says it"))
    return found


def _sentence(key: str, value: object, why: str) -> str:
    return f"{key} {value} is a guess: {why}; state the right one as `encoder: {{{key}: ...}}`."
