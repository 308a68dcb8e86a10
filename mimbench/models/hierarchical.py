"""timm's Swin Transformer with masks. A masked cell of its last stage is covered with mask tokens after the embedding."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mimbench.models.encoder import Encoder
from mimbench.models.pixels import renormalized
from mimbench.parts import Encoded, Masks


class Swin(Encoder):
    """Grid, patch and dimension are those of the last stage; it has no class token, and the mean stands in its place."""

    def _body(self, size: int, drop_path: float) -> nn.Module:
        config, halved = self.config, self._finer()
        return SwinTransformer(
            img_size=size, patch_size=config.patch // halved[0], embed_dim=self._embedded(), depths=config.stages,
            num_heads=tuple(config.heads // times for times in halved), window_size=config.window or 0,
            mlp_ratio=config.mlp_ratio, drop_path_rate=drop_path, num_classes=0,
            norm_layer=functools.partial(nn.LayerNorm, eps=config.norm_eps),  # type: ignore[arg-type]
        )  # fmt: skip

    def _finer(self) -> list[int]:
        """How many times finer than the last one's, and narrower, the grid of each stage is."""
        return [2**left for left in reversed(range(len(self.config.stages)))]

    def _embedded(self) -> int:
        return self.dim // self._finer()[0]

    def blocks(self) -> list[nn.Module]:
        return [block for stage in self.body.layers for block in stage.blocks]

    def tapped(self) -> tuple[int, ...]:
        """The last block of four stages; of fewer stages, some more than once."""
        ends = [sum(self.config.stages[: stage + 1]) - 1 for stage in range(len(self.config.stages))]
        return tuple(ends[stage] for stage in self._four_stages())

    def map_dims(self) -> tuple[int, ...]:
        return tuple(self.dim // self._finer()[stage] for stage in self._four_stages())

    def _four_stages(self) -> list[int]:
        stages = len(self.config.stages)
        return [max(which * stages // 4, which + stages - 4) for which in range(4)]

    def forward(self, images: Tensor, masks: Masks | None = None, taps: tuple[int, ...] = ()) -> Encoded:
        tapped = {}
        for index, x in enumerate(self._outputs(images, masks)):
            if index in taps:
                tapped[index] = self._on_last_grid(x)
        x = self.body.norm(x).flatten(1, 2)  # (B, N, D)
        return Encoded(x, cls=x.mean(1), kept=None, taps=tapped, norm=self.body.norm)

    def maps(self, images: Tensor) -> list[Tensor]:
        """For segmentation: the raw output of four stages, (B, D_i, h_i, w_i) each."""
        read = self.tapped()
        found = {index: x for index, x in enumerate(self._outputs(images)) if index in read}
        return [found[index].permute(0, 3, 1, 2) for index in read]

    def _outputs(self, images: Tensor, masks: Masks | None = None) -> Iterator[Tensor]:
        """Of each block, (B, h, w, d)."""
        x = self.body.patch_embed(renormalized(images, self.config.normalization))
        if masks is not None and self.mask_token is not None:
            x = torch.where(self._covered(masks.masked).unsqueeze(-1), self.mask_token.to(x.dtype), x)
        for stage in self.body.layers:
            x = stage.downsample(x)
            for block in stage.blocks:
                recomputed = self.activation_checkpointing and torch.is_grad_enabled()
                x = checkpoint(block, x, use_reentrant=False) if recomputed else block(x)
                yield x

    def _covered(self, masked: Tensor) -> Tensor:
        """Masked cells (B, N) -> masked places of the embedding (B, h, w)."""
        cells, finer = masked.unflatten(1, (self.grid.rows, self.grid.columns)), self._finer()[0]
        return cells.repeat_interleave(finer, 1).repeat_interleave(finer, 2)

    def _on_last_grid(self, x: Tensor) -> Tensor:
        """(B, h, w, d) -> (B, 1 + N, D): means over cells, followed by zeros, which change no linear head and no cosine."""
        cells = F.avg_pool2d(x.permute(0, 3, 1, 2), x.shape[1] // self.grid.rows).flatten(2).transpose(1, 2)
        cells = F.pad(cells, (0, self.dim - cells.shape[-1]))
        return torch.cat([cells.mean(1, keepdim=True), cells], dim=1)

    def layer_of(self, name: str) -> int:
        """Blocks count through all stages; what merges patches belongs to the block before it, as in SimMIM's code."""
        found = re.match(r"body\.layers\.(\d+)\.(?:blocks\.(\d+)\.)?", name)
        if not found:
            return super().layer_of(name)
        before = sum(self.config.stages[: int(found.group(1))])
        return before if found.group(2) is None else before + int(found.group(2)) + 1
