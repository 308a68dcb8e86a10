"""Checkpoints that were not trained here, by timm's names."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from mimbench.errors import UserError
from mimbench.models.encoder import Encoder

HEADS = ("head.", "fc_norm.", "mask_token", "lm_head.", "decoder", "head_dist.")  # no part of an encoder
SHOWN = 4  # tensors of an error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Of a safetensors file, or of one by torch.save; never anything executable."""
    with path.open("rb") as file:
        start = file.read(9)
    try:
        if start[8:9] == b"{" and start[:4] != b"PK\x03\x04":  # torch's files are zip archives
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # both have many for a file that is none of theirs
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"{path}: not readable as a checkpoint of tensors ({type(error).__name__}: {reason})."
        ) from error
    for key in ("model", "state_dict", "model_ema"):  # as timm and the official repositories wrap it
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict):
        raise UserError(f"{path}: must hold tensors by name, not one {type(state).__name__}.")
    return {key: value for key, value in state.items() if isinstance(value, Tensor)}


def load_into(encoder: Encoder, found: dict[str, Tensor], path: Path) -> set[str]:
    """Load timm's names; every tensor of the encoder must be there, in its shape. Returns the names that were left out."""
    wanted = {key.removeprefix("body."): value for key, value in encoder.state_dict().items()}
    missing = [key for key in wanted if key not in found]
    shapes = [
        f"{key} {tuple(found[key].shape)}, not {tuple(value.shape)}"
        for key, value in wanted.items()
        if key in found and found[key].shape != value.shape
    ]
    extra = [key for key in found if key not in wanted and not key.startswith(HEADS)]
    for what, names in (("lacks", missing), ("has other shapes", shapes), ("has tensors this encoder lacks", extra)):
        if names:
            more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            raise UserError(f"{path}: does not fit the row's encoder: {what}: {', '.join(names[:SHOWN])}{more}.")
    encoder.load_state_dict({f"body.{key}": found[key].to(torch.float32) for key in wanted})
    return {key for key in found if key not in wanted}
