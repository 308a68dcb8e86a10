"""Images, and the views rendered from them. A training view is a function of (seed, epoch, index)."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor

from mimbench.config.schema import DataConfig
from mimbench.data.crops import DRAWS, cropped, resized
from mimbench.data.decoding import opened
from mimbench.data.sampling import derive, uniforms
from mimbench.errors import UserError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
Source = Any  # an array (n, S, S, 3), or a sequence of paths or of arrays (H, W, 3)


class Images:
    """One split: uint8 images of the views' size in one array, or files, or images of different sizes."""

    def __init__(self, source: Source, labels: np.ndarray, classes: int, config: DataConfig, left_out: int = 0) -> None:
        self.source, self.labels, self.classes, self.config = source, labels, classes, config
        self.left_out = left_out  # unreadable files

    def __len__(self) -> int:
        return len(self.labels)

    def head(self, count: int | None) -> Images:
        check_available(self.config.name, count, len(self) + self.left_out)
        return Images(self.source[:count], self.labels[:count], self.classes, self.config, self.left_out)

    def plain(self, indices: Sequence[int]) -> Tensor:
        """For evaluation: resized and center-cropped, (B, 3, S, S) in [0, 1]."""
        if isinstance(self.source, np.ndarray):
            return to_unit(_channels_first(self.source[np.asarray(indices)]))
        views = [_center_crop(opened(self.source[i]).pixels(), self.config.size) for i in indices]
        return to_unit(_channels_first(np.stack(views)))

    def augmented(self, seed: int, keys: Sequence[tuple[int, int]]) -> Tensor:
        """For training, (B, 3, S, S) uint8; keys: (epoch, index)."""
        return self._augmented(seed, keys, None)[0]

    def for_two(self, seed: int, keys: Sequence[tuple[int, int]], side: int) -> tuple[Tensor, Tensor]:
        """The encoder's views, bicubic, and the tokenizer's of `side` pixels, Lanczos, of the same crop, flip and jitter."""
        first, second = self._augmented(seed, keys, side)
        return first, second

    def _augmented(self, seed: int, keys: Sequence[tuple[int, int]], side: int | None) -> list[Tensor]:
        config, table = self.config, np.asarray(keys, np.int64)
        draws = uniforms(seed, table, 8)
        if isinstance(self.source, np.ndarray) and config.crop is None and not config.jitter and side is None:
            flipped = draws[:, 0] < (0.5 if config.flip else 0.0)
            images = np.asarray(self.source[table[:, 1]])
            return [_channels_first(_shift_and_flip(images, config.shift, flipped, draws[:, 1:3]))]
        found: Iterator[np.ndarray]
        if config.crop is None:
            found = (
                _shifted(opened(self.source[i]).pixels(), config, d) for i, d in zip(table[:, 1], draws, strict=True)
            )
        else:
            corners, needed = uniforms(derive(seed, "crop"), table, DRAWS), max(config.size, side or 0)
            found = cropped(self.source, table[:, 1], config.crop, corners, needed)
        views = [
            [resized(crop, config.size)] if side is None else [resized(crop, config.size), _lanczos(crop, side)]
            for crop in found
        ]
        return [
            _channels_first(np.stack([_recolored(view, config, d) for view, d in zip(same, draws, strict=True)]))
            for same in zip(*views, strict=True)
        ]


def _lanczos(array: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(array).resize((side, side), Image.Resampling.LANCZOS))


def check_available(place: str, requested: int | None, available: int) -> None:
    if requested is not None and requested > available:
        raise UserError(f"{place}: requested {requested} images, only {available} available.")


def _shift_and_flip(images: np.ndarray, most: int, flipped: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Each image shifted by up to `most` pixels either way, the border repeated, and mirrored where `flipped`."""
    count, side = images.shape[:2]
    if not most:
        images[flipped] = images[flipped, :, ::-1]
        return images
    offsets = (draws * (2 * most + 1)).astype(np.int32) - most
    span = np.arange(side, dtype=np.int32)
    rows = np.clip(span + offsets[:, :1], 0, side - 1)
    columns = np.clip(np.where(flipped[:, None], span[::-1], span) + offsets[:, 1:], 0, side - 1)
    first = np.arange(count, dtype=np.int32) * side
    index = (first[:, None, None] + rows[:, :, None]) * side + columns[:, None, :]
    return images.reshape(-1, images.shape[-1])[index]


def normalize(raw: Tensor) -> Tensor:
    """The view `image` from the view `raw`: what an encoder sees."""
    raw = to_unit(raw)
    mean, std = _statistics(raw.device, raw.dtype)
    return (raw - mean) / std


@functools.cache
def _statistics(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """MEAN and STD, once per device: a copy in each step would synchronize."""
    with torch.inference_mode(False):  # an evaluation may ask first, and training cannot use inference tensors
        return tuple(torch.tensor(v, device=device, dtype=dtype).view(3, 1, 1) for v in (MEAN, STD))


def to_unit(raw: Tensor) -> Tensor:
    """uint8 -> [0, 1]. Images travel as bytes, and become numbers where they are computed with."""
    return raw.to(torch.float32).div_(255) if raw.dtype == torch.uint8 else raw


def _channels_first(images: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def _center_crop(image: Image.Image, size: int) -> np.ndarray:
    """Shorter side to size / 0.875, bicubic, then the center; torchvision's rounding.

    Below 160 pixels, and from 384 on as in BEiT, the shorter side to size: the whole of it.
    """
    short = round(size / 0.875) if 160 <= size < 384 else size
    shorter = min(image.size)
    width, height = (short * side // shorter for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def _shifted(image: Image.Image, config: DataConfig, draws: np.ndarray) -> np.ndarray:
    whole = _center_crop(image, config.size)
    return _shift_and_flip(whole[None].copy(), config.shift, np.array([False]), draws[None, 1:3])[0]


def _recolored(view: np.ndarray, config: DataConfig, draws: np.ndarray) -> np.ndarray:
    """Flip and color jitter, from eight draws."""
    if config.flip and draws[0] < 0.5:
        view = view[:, ::-1]
    if not config.jitter:
        return view
    image = Image.fromarray(view)
    for enhance, draw in zip(
        (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color), draws[5:], strict=True
    ):
        image = enhance(image).enhance(1 + config.jitter * (2 * float(draw) - 1))
    return np.asarray(image)
