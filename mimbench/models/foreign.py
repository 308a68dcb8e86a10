"""Checkpoints that were not trained here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from mimbench.config.schema import EncoderConfig
from mimbench.errors import UserError
from mimbench.models.architecture import Described, grid_side, infer
from mimbench.models.encoder import Encoder
from mimbench.models.layouts import Layout, by_timms_names, layout_of, unwrapped
from mimbench.models.positions import on_grid

SHOWN = 4  # tensors of an error


@dataclass(frozen=True)
class Checkpoint:
    """An encoder's tensors by timm's names."""

    path: Path
    layout: Layout
    tensors: dict[str, Tensor]
    left: list[str]  # tensors of heads, decoders and the like, by their names in the file

    def encoder_config(self, described: Described, stated: dict[str, Any]) -> EncoderConfig:
        """What the row states, and the rest from the tensors."""
        relative = any(name.endswith("relative_position_bias_table") for name in self.tensors)
        usual = self.layout.normalization or ("half" if relative else "imagenet")
        described = replace(described, norm_eps=described.norm_eps or self.layout.norm_eps,
                            normalization=described.normalization or usual)  # fmt: skip
        try:
            return infer(self.tensors, described, stated)
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from error


def read_checkpoint(path: Path) -> Checkpoint:
    found = read_tensors(path)
    try:
        layout = layout_of(found)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    tensors, left = by_timms_names(found, layout)
    return Checkpoint(path, layout, tensors, left)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Of a safetensors file, or of one by torch.save; never anything executable."""
    with path.open("rb") as file:
        start = file.read(9)
    try:
        if start[8:9] == b"{" and start[:4] != b"PK\x03\x04":  # torch's files are zip archives
            return load_file(path)
        state = unwrapped(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # both have many for a file that is none of theirs
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"{path}: not readable as a checkpoint of tensors ({type(error).__name__}: {reason})."
        ) from error
    if not isinstance(state, dict):
        raise UserError(f"{path}: must hold tensors by name, not one {type(state).__name__}.")
    return {key: value for key, value in state.items() if isinstance(value, Tensor)}


def load_into(encoder: Encoder, checkpoint: Checkpoint) -> dict[str, Any]:
    """Load every tensor of the encoder, in its shape. Returns what was loaded, left out, resized and newly made."""
    path, left = checkpoint.path, checkpoint.left
    own = {key.removeprefix("body."): value for key, value in encoder.state_dict().items()}
    found = {key: value.to(torch.float32) for key, value in checkpoint.tensors.items()}
    made = _unused_norm(found, own, left)
    _place_class_token(found, encoder)
    before, found = found, on_grid(found, own, encoder.grid)
    resized = [key for key in found if found[key].shape != before[key].shape]
    missing = [key for key in own if key not in found and key not in made]
    shapes = [
        f"{key} {tuple(found[key].shape)}, not {tuple(value.shape)}"
        for key, value in own.items()
        if key in found and found[key].shape != value.shape
    ]
    extra = [key for key in found if key not in own]
    for what, names in (("lacks", missing), ("has other shapes", shapes), ("has tensors this encoder lacks", extra)):
        if names:
            more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            raise UserError(f"{path}: does not fit the row's encoder: {what}: {', '.join(names[:SHOWN])}{more}.")
    encoder.load_state_dict({f"body.{key}": value for key, value in (found | made).items()})
    return {
        "layout": checkpoint.layout.name,
        "loaded": len(found),
        "left_out": left,
        "resized": resized,
        "newly_made": list(made),
    }


def _unused_norm(found: dict[str, Tensor], own: dict[str, Tensor], left: list[str]) -> dict[str, Tensor]:
    """A new last LayerNorm for a model that was fine-tuned with another one after the mean over patches."""
    replaced = any(name.endswith(("fc_norm.weight", "pooler.layernorm.weight")) for name in left)
    return {k: v for k, v in own.items() if k.startswith("norm.") and k not in found} if replaced else {}


def _place_class_token(found: dict[str, Tensor], encoder: Encoder) -> None:
    """Give the class token the position that this encoder has for it, in place: its own, or with registers, none."""
    table = found.get("pos_embed")
    if table is None or "cls_token" not in found:
        return
    with_position = table.shape[1] > grid_side(table) ** 2
    if encoder.placed and not with_position:
        found["pos_embed"] = torch.cat([torch.zeros_like(table[:, :1]), table], dim=1)
    elif with_position and not encoder.placed:
        found["cls_token"], found["pos_embed"] = found["cls_token"] + table[:, :1], table[:, 1:]


def described(loaded: dict[str, Any]) -> str:
    """What `load_into` did, in a sentence."""
    words = [f"{loaded['layout']}: {loaded['loaded']} tensors loaded"]
    for what in ("resized", "newly_made", "left_out"):
        names = loaded[what]
        shown = f" ({', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''})" if names else ""
        words.append(f"{len(names)} {what.replace('_', ' ')}{shown}")
    return "; ".join(words)
