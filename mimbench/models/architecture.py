"""The encoder that a checkpoint's tensors are of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mimbench.config.schema import EncoderConfig
from mimbench.errors import UserError
from mimbench.models.positions import sincos

LAYER_SCALE = 0.1  # of an encoder that has it: where weights are loaded, any value means the same


@dataclass(frozen=True)
class Described:
    """What a config file or a library says of a checkpoint, and no tensor does; None: nothing."""

    heads: int | None = None
    norm_eps: float | None = None
    normalization: str | None = None
    causal: bool = False
    license: str | None = None


def infer(tensors: Mapping[str, Tensor], described: Described, stated: dict[str, Any]) -> EncoderConfig:
    """From tensors by timm's names; what the row states comes first."""
    _check_blocks(tensors)
    dim, channels, patch, _ = tensors["patch_embed.proj.weight"].shape
    if channels != 3:
        raise UserError(f"its images have {channels} channels; here they have 3.")
    table, registers = _relative_table(tensors), tensors.get("reg_token")
    scaled = any(name in tensors for name in ("blocks.0.gamma_1", "blocks.0.ls1.gamma"))
    found: dict[str, Any] = {
        "type": "beit" if "blocks.0.attn.q_bias" in tensors else "vit",
        "patch": patch, "dim": dim, "depth": depth_of(tensors), "heads": _heads(dim, table, described, stated),
        "mlp_ratio": len(tensors["blocks.0.mlp.fc1.weight"]) / dim,
        "positions": _positions(tensors, stated), "relative_positions": "none" if table is None else table[0],
        "layer_scale": LAYER_SCALE if scaled else None,
        "class_token": "cls_token" in tensors, "registers": 0 if registers is None else registers.shape[1],
        "norm_eps": described.norm_eps or 1e-6, "normalization": described.normalization or "imagenet",
    }  # fmt: skip
    if described.causal:
        found |= {"attention": "causal", "masking": "none"}
    return EncoderConfig(**{**found, **stated})


def depth_of(tensors: Mapping[str, Tensor]) -> int:
    return 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blocks."))


def grid_side(table: Tensor) -> int:
    """Patches on a side of the square grid that an absolute position table is of."""
    side = math.isqrt(table.shape[1])
    if table.shape[1] not in (side**2, side**2 + 1):
        raise UserError(f"pos_embed {tuple(table.shape)} is of no square grid of patches with at most a class token.")
    return side


def _check_blocks(tensors: Mapping[str, Tensor]) -> None:
    """Block by block, every row of the first MLP layer must be read by the second one."""
    gated = any(part in name for name in tensors for part in (".mlp.w12.", ".mlp.weights_in.", ".mlp.fc1_g."))
    first, second = (tensors.get(f"blocks.0.mlp.fc{layer}.weight") for layer in (1, 2))
    if gated or (first is not None and second is not None and len(first) != second.shape[1]):
        raise UserError("its MLPs are gated (SwiGLU), which this encoder does not have.")
    if any(name.startswith("layers.0.blocks.") for name in tensors):
        raise UserError("is a Swin Transformer, which can be trained here but not read from a file.")
    for name in ("patch_embed.proj.weight", "blocks.0.mlp.fc1.weight"):
        if name not in tensors:
            raise UserError(f"lacks {name}: not a Vision Transformer with plain MLPs.")
    shape = tuple(tensors["patch_embed.proj.weight"].shape)
    if len(shape) != 4 or shape[2] != shape[3]:
        raise UserError(f"patch_embed.proj.weight {shape} does not cut an image into square patches.")


def _relative_table(tensors: Mapping[str, Tensor]) -> tuple[str, Tensor] | None:
    """Whether blocks share it, and a table of relative positions."""
    for kind, owner in (("shared", "rel_pos_bias"), ("per_block", "blocks.0.attn")):
        if (table := tensors.get(f"{owner}.relative_position_bias_table")) is not None:
            return kind, table
    return None


def _heads(dim: int, table: tuple[str, Tensor] | None, described: Described, stated: dict[str, Any]) -> int:
    if table is not None:
        known, source = int(table[1].shape[1]), "its table of relative positions"
    else:
        known, source = described.heads or 0, "its config (config.json, or timm's)"
    heads = int(stated.get("heads", known))
    if known and heads != known:
        raise UserError(f"the row states `encoder: {{heads: {heads}}}`, but {source} says {known}.")
    if heads:
        return heads
    if dim % 64:
        raise UserError(f"no tensor says how many heads share its {dim} dimensions; state `encoder: {{heads: N}}`.")
    return dim // 64


def _positions(tensors: Mapping[str, Tensor], stated: dict[str, Any]) -> str:
    table = tensors.get("pos_embed")
    if table is None:
        if _relative_table(tensors) is None and "positions" not in stated:
            raise UserError("has no positions that this encoder knows (rotary ones?); if it needs none, state `encoder: "
                            "{positions: none}`.")  # fmt: skip
        return "none"
    side, dim = grid_side(table), table.shape[-1]
    if dim % 4:
        return "learned"
    fixed = sincos(side, side, dim, cls=table.shape[1] > side**2)
    return "sincos" if torch.allclose(table[0].float(), fixed, atol=1e-4) else "learned"
