"""The encoder: timm's ViT and BEiT. Masked patches are replaced by a token or dropped."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable
from pkgutil import resolve_name
from typing import Any

import torch
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models.beit import Beit
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mimbench.config.schema import EncoderConfig
from mimbench.data.sampling import derive
from mimbench.models.pixels import renormalized
from mimbench.models.positions import sincos
from mimbench.parts import Encoded, Masks, PatchGrid


class Encoder(nn.Module):
    """timm's model with masks. Parameter names under `body.` are timm's."""

    def __init__(
        self, config: EncoderConfig, size: int, *, drop_path: float | None = None, masked: bool = True
    ) -> None:
        super().__init__()
        self.config = config
        self.activation_checkpointing = False  # recompute the blocks' activations in the backward pass: less memory
        self.only_predicted = False  # nobody reads other patches than the predicted ones: the last MLP leaves them out
        self.dim, self.depth = config.dim, config.depth
        self.grid = PatchGrid(size // config.patch, size // config.patch, config.patch)
        self.prefix = int(config.class_token) + config.registers  # tokens before the patches
        self.placed = int(config.class_token and not config.registers)  # of these, how many have a position
        self.body: Any = self._body(size, config.drop_path if drop_path is None else drop_path)
        has_token = masked and config.masking == "token"
        self.mask_token = nn.Parameter(torch.zeros(1, 1, self._embedded())) if has_token else None
        self._initialize()
        if config.frozen_patches:
            self.body.patch_embed.requires_grad_(False)

    def _body(self, size: int, drop_path: float) -> nn.Module:
        return _body(self.config, size, drop_path)

    def _embedded(self) -> int:
        """Features of a patch before the blocks."""
        return self.dim

    def blocks(self) -> list[Any]:
        return list(self.body.blocks)

    def tapped(self) -> tuple[int, ...]:
        """The four blocks that segmentation reads."""
        return tapped_blocks(self.depth)

    def map_dims(self) -> tuple[int, ...]:
        return (self.dim,) * 4

    def maps(self, images: Tensor) -> list[Tensor]:
        """For segmentation: the raw output of four blocks, (B, D, rows, columns) each."""
        blocks, shape = self.tapped(), (self.grid.rows, self.grid.columns)
        taps = self(images, taps=blocks).taps
        return [taps[block][:, 1:].transpose(1, 2).unflatten(2, shape) for block in blocks]

    def _initialize(self) -> None:
        """Xavier for weights, as in MAE (it suits small dimensions too), or as in BEiT; 0.02 for tokens and positions."""
        as_beit = self.config.init == "beit"
        limit = 0.02 if as_beit else 2.0  # BEiT cuts off at one deviation
        normal = functools.partial(nn.init.trunc_normal_, std=0.02, a=-limit, b=limit)
        for module in self.body.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                if as_beit:
                    normal(module.weight)
                else:
                    nn.init.xavier_uniform_(module.weight.view(len(module.weight), -1))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if as_beit:
            rescale_by_depth(self.blocks())
        for name in ("cls_token", "reg_token", "pos_embed"):
            token = getattr(self.body, name, None)
            if token is not None and token.requires_grad:
                normal(token)
        if self.mask_token is not None and not self.config.zero_mask_token:  # last: no other weight depends on it
            normal(self.mask_token)

    def forward(self, images: Tensor, masks: Masks | None = None, taps: tuple[int, ...] = ()) -> Encoded:
        x = self.body.patch_embed(renormalized(images, self.config.normalization))  # (B, N, D)
        positions = self._positions(images)  # (1, placed + N, D) or None
        if masks is not None and self.mask_token is not None:
            x = torch.where(masks.masked.unsqueeze(-1), self.mask_token.to(x.dtype), x)
        if positions is not None:
            x = x + positions[:, self.placed :]
        kept = masks.kept if masks is not None and self.mask_token is None else None
        if kept is not None:
            x = x.gather(1, kept.unsqueeze(-1).expand(-1, -1, self.dim))  # (B, K, D)
        if self.prefix:
            x = torch.cat([self._before_patches(positions).expand(len(x), -1, -1).to(x.dtype), x], dim=1)
        x = self.body.pos_drop(x)
        bias = getattr(self.body, "rel_pos_bias", None)
        shared = {} if bias is None else {"shared_rel_pos_bias": bias()}
        causal = self.config.attention == "causal"
        if causal:
            shared["is_causal"] = True
        tapped = {}
        blocks = self.blocks()
        if self.only_predicted and masks is not None and (rows := self._read(masks)) is not None:
            blocks[-1] = functools.partial(_with_mlp_at, blocks[-1], rows)
        for index, block in enumerate(blocks):
            if self.activation_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False, **shared)
            else:
                x = block(x, **shared)
            if index in taps:
                tapped[index] = self._seen(x)
        x = self._seen(self.body.norm(x))
        if causal:  # the last token has seen all; in pre-training, place i holds what was seen before patch i
            patches = x[:, 1:] if masks is None else x[:, :-1]
            return Encoded(patches, cls=x[:, -1], kept=None, taps=tapped, norm=self.body.norm)
        return Encoded(x[:, 1:], cls=x[:, 0], kept=kept, taps=tapped, norm=self.body.norm)

    def _before_patches(self, positions: Tensor | None) -> Tensor:
        """(1, prefix, D): the class token, then the registers."""
        if not self.config.class_token:
            return self.body.reg_token
        cls = self.body.cls_token if positions is None or not self.placed else self.body.cls_token + positions[:, :1]
        return torch.cat([cls, self.body.reg_token], dim=1) if self.config.registers else cls

    def _seen(self, tokens: Tensor) -> Tensor:
        """(B, 1 + N, D) of all tokens: without registers; without a class token, the mean of the patches in its place."""
        if self.prefix == self.config.class_token == 1:
            return tokens
        patches = tokens[:, self.prefix :]
        cls = tokens[:, :1] if self.config.class_token else patches.mean(1, keepdim=True)
        return torch.cat([cls, patches], dim=1)

    def _read(self, masks: Masks) -> Tensor | None:
        """Class tokens and predicted patches, each once, as rows of the B * (1 + N) tokens; None where that is no saving."""
        count, patches = masks.masked.shape
        shifted, repeated = self.config.attention == "causal", masks.blocks is not None  # blocks may overlap
        other = self.prefix != 1 or not self.config.class_token
        if shifted or repeated or other or masks.kept is not None or len(masks.predicted) == count * patches:
            return None
        cls = torch.arange(count, device=masks.predicted.device) * (1 + patches)
        return torch.cat([cls, masks.predicted + masks.predicted // patches + 1])

    def _positions(self, images: Tensor) -> Tensor | None:
        """Interpolated for images of another size."""
        positions = self.body.pos_embed
        rows, columns = (side // self.grid.patch for side in images.shape[-2:])
        if positions is None or (rows, columns) == (self.grid.rows, self.grid.columns):
            return positions
        return resample_abs_pos_embed(positions, [rows, columns], num_prefix_tokens=self.placed)

    def pooled(self, tokens: Tensor, pooling: str) -> Tensor:
        """Tokens (B, 1 + N, D), as a tap has them -> the mean of the patches, the class token, or both side by side."""
        mean = lambda: tokens[:, 1:].mean(1)
        cls = lambda: tokens[:, -1 if self.config.attention == "causal" else 0]  # causal: the last has seen all
        return {"mean": mean, "class_token": cls, "both": lambda: torch.cat([mean(), cls()], dim=-1)}[pooling]()

    @torch.no_grad()
    def class_attention(self, tokens: Tensor) -> Tensor:
        """Raw output of the last block but one (B, 1 + N, D) -> where the class token looks in the last, (B, N), in float32.

        The mean over heads; the rest to 1 is the class token itself. Of type `vit`, without registers.
        """
        attention = self.body.blocks[-1].attn
        with torch.autocast(tokens.device.type, enabled=False):
            found = attention.qkv(self.body.blocks[-1].norm1(tokens.float()))
            query, key, _ = found.unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
            scores = query[:, :, :1] @ key.transpose(-2, -1) * attention.scale  # (B, heads, 1, 1 + N)
            return scores.softmax(-1).mean(1)[:, 0, 1:]

    def layer_of(self, name: str) -> int:
        """For layer-wise decay: 0 before the blocks, l for block l (from 1), depth + 1 after them."""
        block = re.match(r"body\.blocks\.(\d+)\.", name)
        if block:
            return int(block.group(1)) + 1
        before = ("body.cls_token", "body.reg_token", "body.pos_embed", "body.patch_embed", "mask_token")
        return 0 if name.startswith(before) else self.depth + 1


@torch.no_grad()
def rescale_by_depth(blocks: Iterable[Any]) -> None:
    """What block l adds to the residual stream, divided by sqrt(2 l), as in BEiT."""
    for number, block in enumerate(blocks, 1):
        for layer in (block.attn.proj, block.mlp.fc2):
            layer.weight.div_(math.sqrt(2 * number))


def tapped_blocks(depth: int) -> tuple[int, ...]:
    """Blocks at a third, a half, two thirds and the end: 3, 5, 7, 11 of 12; 7, 11, 15, 23 of 24."""
    return tuple(max(0, round(depth * share) - 1) for share in (1 / 3, 1 / 2, 2 / 3, 1))


CLASSES = {"vit": f"{__name__}:Encoder", "beit": f"{__name__}:Encoder", "swin": "mimbench.models.hierarchical:Swin"}


def make_encoder(
    config: EncoderConfig, size: int, seed: int, *, drop_path: float | None = None, masked: bool = True
) -> Encoder:
    """An encoder with the initial weights of this seed: the same for every row, pre-trained or not."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "encoder"))
        made: Encoder = resolve_name(CLASSES[config.type])(config, size, drop_path=drop_path, masked=masked)
        return made


def _body(config: EncoderConfig, size: int, drop_path: float) -> nn.Module:
    common: dict[str, Any] = dict(img_size=size, patch_size=config.patch, embed_dim=config.dim, depth=config.depth, num_heads=config.heads,
                  mlp_ratio=config.mlp_ratio, num_classes=0, global_pool="token", drop_path_rate=drop_path,
                  init_values=config.layer_scale)  # fmt: skip
    if config.norm_eps != 1e-6:  # timm's own
        common["norm_layer"] = functools.partial(nn.LayerNorm, eps=config.norm_eps)
    body: Any
    if config.type == "beit":
        body = Beit(**common, use_abs_pos_emb=config.positions != "none",
                    use_shared_rel_pos_bias=config.relative_positions == "shared",
                    use_rel_pos_bias=config.relative_positions == "per_block")  # fmt: skip
    else:
        if not config.class_token:
            common["global_pool"] = ""
        body = VisionTransformer(**common, pos_embed="none" if config.positions == "none" else "learn",
                                 class_token=config.class_token, reg_tokens=config.registers,
                                 no_embed_class=config.registers > 0)  # fmt: skip
    body.patch_embed.strict_img_size = False  # views may be smaller
    if config.positions == "sincos":
        side = size // config.patch
        table = sincos(side, side, config.dim, cls=config.class_token and not config.registers)
        body.pos_embed = nn.Parameter(table.unsqueeze(0), requires_grad=False)
    return body


def _with_mlp_at(block: Any, rows: Tensor, x: Tensor, **shared: Any) -> Tensor:
    """A block whose MLP, which sees each token alone, is computed at these rows; to the others it adds zero.

    By hooks, so that timm's blocks stay as they are: drop path still draws per image, LayerScale still follows.
    """
    gather = lambda norm, args: (args[0].flatten(0, 1).index_select(0, rows),)
    scatter = lambda mlp, args, out: out.new_zeros(x.shape).flatten(0, 1).index_copy_(0, rows, out).view(x.shape)
    hooks = [block.norm2.register_forward_pre_hook(gather), block.mlp.register_forward_hook(scatter)]
    try:
        return block(x, **shared)
    finally:
        for hook in hooks:
            hook.remove()


def choose_attention(model: nn.Module) -> None:
    """Per pass: on a CPU, plain matrix products are faster than the fused kernel in bf16 and slower in fp32 (`make bench`).

    Not once for all: an encoder is fine-tuned in bf16 and gives features in fp32.
    """
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.register_forward_pre_hook(_choose_attention)


def _choose_attention(attention: nn.Module, args: tuple[Tensor, ...]) -> None:
    in_bf16 = args[0].device.type == "cpu" and torch.is_autocast_enabled("cpu")
    setattr(attention, "fused_attn", not in_bf16)  # noqa: B010 (timm declares it Final)
