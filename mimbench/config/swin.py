"""What a Swin needs of an encoder's config, whose patch, dim and heads are those of its last stage."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mimbench.errors import UserError

if TYPE_CHECKING:
    from mimbench.config.schema import EncoderConfig

ABSENT: dict[str, Any] = {"positions": "none", "relative_positions": "none", "layer_scale": None, "attention": "full",
                          "class_token": False, "registers": 0}  # fmt: skip


def check_swin(encoder: EncoderConfig, place: str) -> None:
    if encoder.type != "swin":
        for key in ("stages", "window"):
            if getattr(encoder, key):
                raise UserError(f"{place}.{key}: only the encoder type 'swin' has it.")
        return
    for key, value in ABSENT.items():
        if getattr(encoder, key) != value:
            raise UserError(f"{place}.{key}: the encoder type 'swin' needs {json.dumps(value)} here.")
    if encoder.masking == "drop":
        raise UserError(f"{place}.masking: 'drop' leaves no grid for a Swin's windows; use 'token'.")
    if sum(encoder.stages) != encoder.depth:
        raise UserError(f"{place}.stages: a Swin's blocks, stage by stage, must add up to depth ({encoder.depth}), not "
                        f"{list(encoder.stages)}.")  # fmt: skip
    if encoder.window is None:
        raise UserError(f"{place}.window: missing. A Swin's attention needs the side of its windows, e.g. `window: 4`.")
    for key in ("dim", "heads", "patch"):
        value, halved = getattr(encoder, key), 2 ** (len(encoder.stages) - 1)
        if value % halved:
            raise UserError(f"{place}.{key}: {value} is the last stage's, and is halved at each of the others: with "
                            f"{len(encoder.stages)} stages it must be a multiple of {halved}.")  # fmt: skip


def check_windows(encoder: EncoderConfig, side: int, what: str, place: str) -> None:
    """`side` of the images, in pixels. The other stages' grids are multiples of the last one's."""
    cells = side // encoder.patch
    if encoder.window is not None and cells % encoder.window:
        raise UserError(f"{place}: encoder.window: {encoder.window} does not divide the last stage's grid of {cells} x "
                        f"{cells} for {what}, {side}.")  # fmt: skip
