"""An encoder in the names and configs of other libraries. Each form also loads here, as `pretrain: {weights: FOLDER}`, but a Swin's."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mimbench.config.schema import EncoderConfig, as_spec
from mimbench.errors import UserError
from mimbench.models.pixels import STATISTICS

State = dict[str, Tensor]

HUGGING_FACE = (
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^(cls_token|mask_token)$", r"embeddings.\1"),
    (r"^pos_embed$", "embeddings.position_embeddings"),
    (r"^reg_token$", "embeddings.register_tokens"),
    (r"^rel_pos_bias\.", "encoder.relative_position_bias."),
    (r"^blocks\.", "encoder.layer."),
    (
        r"\.attn\.relative_position_bias_table$",
        ".attention.attention.relative_position_bias.relative_position_bias_table",
    ),
    (r"\.attn\.(query|key|value)\.", r".attention.attention.\1."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"^norm\.", "layernorm."),
)
OF_VIT = (
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
    (r"\.gamma_([12])$", r".lambda_\1"),
)
OF_DINOV2 = ((r"\.ls([12])\.gamma$", r".layer_scale\1.lambda1"),)


@dataclass(frozen=True)
class Exported:
    tensors: State
    files: dict[str, dict[str, Any]]  # JSON, by file name
    usage: str  # a line of Python that loads it


def to_safetensors(config: EncoderConfig, size: int, state: State) -> Exported:
    """Our own names, which are timm's, beside what the tensors do not say."""
    usage = "from safetensors.torch import load_file\n\ntensors = load_file('model.safetensors')  # timm's names"
    return Exported(state, {"config.json": {"encoder": as_spec(config), "image_size": size}}, usage)


def to_timm(config: EncoderConfig, size: int, state: State) -> Exported:
    """As timm's hub has it: create_model('local-dir:FOLDER', pretrained=True)."""
    _check(config, "timm", norm_eps=1e-6)
    arguments: dict[str, Any] = {
        "img_size": size, "patch_size": config.patch, "embed_dim": config.dim, "depth": config.depth, "num_heads": config.heads,
        "mlp_ratio": config.mlp_ratio, "init_values": config.layer_scale, "num_classes": 0,
        "global_pool": "token" if config.class_token else "",
    }  # fmt: skip
    if config.type == "beit":
        arguments |= {"use_abs_pos_emb": config.positions != "none", "use_rel_pos_bias": config.relative_positions == "per_block",
                      "use_shared_rel_pos_bias": config.relative_positions == "shared"}  # fmt: skip
    else:
        arguments |= {"pos_embed": "none" if config.positions == "none" else "learn", "class_token": config.class_token,
                      "reg_tokens": config.registers, "no_embed_class": config.registers > 0}  # fmt: skip
    mean, std = STATISTICS[config.normalization]
    cfg = {"input_size": [3, size, size], "interpolation": "bicubic", "mean": list(mean), "std": list(std), "num_classes": 0,
           "first_conv": "patch_embed.proj", "classifier": "head", "fixed_input_size": True}  # fmt: skip
    architecture = "beit_base_patch16_224" if config.type == "beit" else "vit_base_patch16_224"
    files = {"config.json": {"architecture": architecture, "num_classes": 0, "num_features": config.dim,
                             "model_args": arguments, "pretrained_cfg": cfg}}  # fmt: skip
    tensors = {name: tensor for name, tensor in state.items() if name != "mask_token"}
    return Exported(tensors, files, "import timm\n\nmodel = timm.create_model('local-dir:.', pretrained=True)")


def to_hf(config: EncoderConfig, size: int, state: State) -> Exported:
    """As transformers' BeitModel, ViTModel, IJepaModel or Dinov2Model saves it."""
    _check(config, "hf")
    if config.type == "vit" and config.positions == "none":
        raise UserError("--to hf: transformers' ViT has positions, and this encoder has none; use timm or safetensors.")
    like_dinov2 = config.type == "vit" and (config.registers > 0 or config.layer_scale is not None)
    if like_dinov2 and not config.class_token:
        raise UserError(
            "--to hf: no model of transformers has LayerScale or registers without a class token; use safetensors."
        )
    state = _as_dinov2(config, state) if like_dinov2 else dict(state)
    if not like_dinov2 and config.type == "vit":
        state.pop("mask_token", None)  # of a plain ViTModel it is no part
    names = (*HUGGING_FACE, *(OF_DINOV2 if like_dinov2 else OF_VIT))
    tensors = {_renamed(name, names): tensor for name, tensor in _with_split_attention(config, state).items()}
    mean, std = STATISTICS[config.normalization]
    pixels = {"image_processor_type": "ViTImageProcessor", "do_resize": True, "size": {"height": size, "width": size}, "do_rescale": True,
              "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": list(mean), "image_std": list(std)}  # fmt: skip
    files = {
        "config.json": _hf_config(config, size, "mask_token" in state, like_dinov2),
        "preprocessor_config.json": pixels,
    }
    return Exported(tensors, files, "import transformers\n\nmodel = transformers.AutoModel.from_pretrained('.')")


FORMS: dict[str, Callable[[EncoderConfig, int, State], Exported]] = {
    "timm": to_timm,
    "hf": to_hf,
    "safetensors": to_safetensors,
}


def _check(config: EncoderConfig, form: str, norm_eps: float | None = None) -> None:
    if config.type == "swin":
        raise UserError(f"--to {form}: a Swin is exported to safetensors only; use --to safetensors.")
    if config.attention == "causal":
        raise UserError(f"--to {form}: its models have no causal attention; use safetensors.")
    if norm_eps is not None and config.norm_eps != norm_eps:
        raise UserError(
            f"--to {form}: its LayerNorms have the epsilon {norm_eps:g}, not {config.norm_eps:g}; use hf or safetensors."
        )


def _hf_config(config: EncoderConfig, size: int, mask_token: bool, like_dinov2: bool) -> dict[str, Any]:
    common = {"hidden_size": config.dim, "num_hidden_layers": config.depth, "num_attention_heads": config.heads, "image_size": size,
              "patch_size": config.patch, "num_channels": 3, "hidden_act": "gelu", "layer_norm_eps": config.norm_eps, "qkv_bias": True,
              "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}  # fmt: skip
    hidden = {"intermediate_size": int(config.dim * config.mlp_ratio)}
    if like_dinov2:
        if int(config.mlp_ratio) != config.mlp_ratio:
            raise UserError(
                f"--to hf: Dinov2Model's mlp_ratio is an integer, not {config.mlp_ratio}; use timm or safetensors."
            )
        kind = {"model_type": "dinov2_with_registers", "architectures": ["Dinov2WithRegistersModel"],
                "num_register_tokens": config.registers} if config.registers else {
                    "model_type": "dinov2", "architectures": ["Dinov2Model"]}  # fmt: skip
        return {**common, **kind, "mlp_ratio": int(config.mlp_ratio), "layerscale_value": config.layer_scale or 1.0}
    if config.type == "vit":
        named = {"model_type": "vit", "architectures": ["ViTModel"]}
        no_class = {"model_type": "ijepa", "architectures": ["IJepaModel"]}
        return {**common, **hidden, **(named if config.class_token else no_class)}
    return {
        **common, **hidden, "model_type": "beit", "architectures": ["BeitModel"], "use_mask_token": mask_token,
        "use_mean_pooling": False, "use_absolute_position_embeddings": config.positions != "none",
        "use_relative_position_bias": config.relative_positions == "per_block",
        "use_shared_relative_position_bias": config.relative_positions == "shared",
        "layer_scale_init_value": config.layer_scale or 0.0, "drop_path_rate": 0.0,
    }  # fmt: skip


def _as_dinov2(config: EncoderConfig, state: State) -> State:
    """DINOv2's model has all of these: a LayerScale, a mask token without a middle dimension, a position of the class token."""
    full, ones = dict(state), torch.ones(config.dim)
    full["mask_token"] = state["mask_token"][0] if "mask_token" in state else torch.zeros(1, config.dim)
    if config.registers:
        table = state["pos_embed"]
        full["pos_embed"] = torch.cat([torch.zeros_like(table[:, :1]), table], dim=1)
    for block in range(config.depth):
        for which in (1, 2):
            full.setdefault(f"blocks.{block}.ls{which}.gamma", ones.clone())
    return full


def _with_split_attention(config: EncoderConfig, state: State) -> State:
    split: State = {}
    for name, tensor in state.items():
        start, joined, end = name.partition(".attn.qkv.")
        if joined:
            for which, part in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                split[f"{start}.attn.{which}.{end}"] = part.clone()
        elif name.endswith((".attn.q_bias", ".attn.v_bias")):
            split[re.sub(r"([qv])_bias$", lambda m: f"{'query' if m[1] == 'q' else 'value'}.bias", name)] = tensor
        else:
            split[name] = tensor
    return split


def _renamed(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name
