"""Checkpoints that were not trained here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mimbench.config.schema import EncoderConfig
from mimbench.errors import UserError
from mimbench.models.architecture import Described, grid_side, infer
from mimbench.models.encoder import Encoder
from mimbench.models.layouts import Layout, by_timms_names, layout_of
from mimbench.models.positions import on_grid
from mimbench.models.tensors import read_tensors

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


def load_into(encoder: Encoder, checkpoint: Checkpoint) -> dict[str, Any]:
    """Load every tensor of the encoder, in its shape. Returns what was loaded, left out, resized and newly made."""
    path, left = checkpoint.path, checkpoint.left
    own = {key.removeprefix("body."): value for key, value in encoder.state_dict().items()}
    found = {key: value.to(torch.float32) for key, value in checkpoint.tensors.items()}
    if broken := [key for key, value in found.items() if not value.isfinite().all()]:
        raise UserError(f"{path}: has values that are not finite (NaN or infinity): {_listed(broken)}.")
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
            raise UserError(f"{path}: does not fit the row's encoder: {what}: {_listed(names)}.")
    encoder.load_state_dict({f"body.{key}": value for key, value in (found | made).items()})
    return {
        "layout": checkpoint.layout.name,
        "loaded": len(found),
        "left_out": left,
        "resized": resized,
        "newly_made": list(made),
    }


def _listed(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f", and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


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
