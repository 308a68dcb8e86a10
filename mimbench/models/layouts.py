"""How released checkpoints name their tensors. Each layout is rewritten into timm's names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mimbench.errors import UserError

Names = tuple[tuple[str, str], ...]

# What files hold beside an encoder
OTHERS = re.compile(
    r"(module\.)?(head|head_dist|fc_norm|lm_head|dino_head|ibot_head|classifier|pooler|predictor|momentum_encoder)\."
    r"|decoder|mask_token$|cls_pt_layers\.|.*relative_position_index$"
)
WRAPPERS = ("model", "module", "state_dict", "target_encoder", "teacher", "student", "model_ema")


@dataclass(frozen=True)
class Layout:
    name: str
    mark: str  # the layout of a file with a tensor of this name
    names: Names = ()  # regular expressions and what they become, in this order
    norm_eps: float = 1e-6  # of its LayerNorms, where no config says otherwise
    normalization: str | None = (
        None  # of its pixels, likewise; None: BEiT's where positions are relative, or ImageNet's
    )


TIMM: Names = (
    (r"^((module|backbone)\.)+", ""),
    (r"^register_tokens$", "reg_token"),
    (r"^blocks\.\d+\.(?=\d+\.)", "blocks."),  # DINOv2's chunks: the second number counts through
)

# The order counts: the first one whose mark is found
LAYOUTS = (
    Layout(
        "Hugging Face, DINOv2",
        r"(dinov2\w*\.)?encoder\.layer\.0\.layer_scale1\.lambda1",
        (
            (r"^dinov2\w*\.", ""),
            (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
            (r"^embeddings\.position_embeddings$", "pos_embed"),
            (r"^embeddings\.register_tokens$", "reg_token"),
            (r"^embeddings\.", ""),
            (r"^encoder\.layer\.", "blocks."),
            (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
            (r"\.attention\.output\.dense\.", ".attn.proj."),
            (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
            (r"^layernorm\.", "norm."),
        ),
    ),
    Layout(
        "Hugging Face, BEiT, MAE or ViT",
        r"((beit|vit)\.)?embeddings\.patch_embeddings\.projection\.weight",
        (
            (r"^(beit|vit)\.", ""),
            (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
            (r"^embeddings\.position_embeddings$", "pos_embed"),
            (r"^embeddings\.", ""),
            (r"^encoder\.relative_position_bias\.", "rel_pos_bias."),
            (r"^encoder\.layer\.", "blocks."),
            (r"\.attention\.attention\.relative_position_bias\.", ".attn."),
            (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
            (r"\.attention\.output\.dense\.", ".attn.proj."),
            (r"\.intermediate\.dense\.", ".mlp.fc1."),
            (r"\.output\.dense\.", ".mlp.fc2."),
            (r"\.layernorm_before\.", ".norm1."),
            (r"\.layernorm_after\.", ".norm2."),
            (r"\.lambda_([12])$", r".gamma_\1"),
            (r"^layernorm\.", "norm."),
        ),
        norm_eps=1e-12,
    ),
    Layout("SimMIM", r"encoder\.patch_embed\.proj\.weight", ((r"^encoder\.", ""),), normalization="imagenet"),
    Layout("MoCo v3", r"(module\.)?base_encoder\.patch_embed\.proj\.weight", ((r"^(module\.)?base_encoder\.", ""),)),
    Layout("BEiT-2", r"(module\.)?cls_pt_layers\.0\.norm1\.weight", TIMM, normalization="imagenet"),
    Layout("timm, BEiT, MAE, DINO or I-JEPA", r"((module|backbone)\.)*patch_embed\.proj\.weight", TIMM),
)


def unwrapped(state: object) -> object:
    """The tensors of a training checkpoint: the model, and of a teacher and a student the teacher."""
    while isinstance(state, Mapping):
        inner = next((state[key] for key in WRAPPERS if isinstance(state.get(key), Mapping)), None)
        if inner is None:
            break
        state = inner
    return state


def layout_of(found: Mapping[str, Tensor]) -> Layout:
    for layout in LAYOUTS:
        if any(re.fullmatch(layout.mark, name) for name in found):
            return layout
    known = "; ".join(layout.name for layout in LAYOUTS)
    raise UserError(f"its tensors have the names of no known layout of a Vision Transformer ({known}).")


def by_timms_names(found: Mapping[str, Tensor], layout: Layout) -> tuple[dict[str, Tensor], list[str]]:
    """The encoder's tensors, and the names of those that belong to something else."""
    tensors, left = {}, []
    for name, tensor in found.items():
        renamed = name
        for pattern, replacement in layout.names:
            renamed = re.sub(pattern, replacement, renamed)
        if OTHERS.match(renamed):
            left.append(name)
        else:
            tensors[renamed] = tensor
    return _with_joined_attention(tensors), sorted(left)


def _with_joined_attention(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Query, key and value as one matrix; without a bias of the keys, BEiT's two biases."""
    joined = {key: value for key, value in tensors.items() if not re.search(r"\.attn\.(query|key|value)\.", key)}
    for name in tensors:
        if not name.endswith(".attn.query.weight"):
            continue
        start = name.removesuffix("query.weight")
        weights, biases = ([tensors[key] for which in ("query", "key", "value") if (key := f"{start}{which}.{end}") in tensors]
                           for end in ("weight", "bias"))  # fmt: skip
        joined[f"{start}qkv.weight"] = torch.cat(weights)
        if len(biases) == 3:
            joined[f"{start}qkv.bias"] = torch.cat(biases)
        elif f"{start}key.bias" not in tensors and len(biases) == 2:
            joined[f"{start}q_bias"], joined[f"{start}v_bias"] = biases
    return joined
