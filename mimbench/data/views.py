"""Images, and the views rendered from them. A training view is a function of (seed, epoch, index)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor

from mimbench.config.schema import DataConfig
from mimbench.data.sampling import uniforms
from mimbench.errors import UserError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


class Images:
    """One split: uint8 images in memory, or files. Rendered as batches of the view `raw`, (B, 3, S, S) in [0, 1]."""

    def __init__(
        self, source: np.ndarray | Sequence[Path], labels: np.ndarray, classes: int, config: DataConfig
    ) -> None:
        self.source, self.labels, self.classes, self.config = source, labels, classes, config

    def __len__(self) -> int:
        return len(self.labels)

    def head(self, count: int | None) -> Images:
        check_available(self.config.name, count, len(self))
        return Images(self.source[:count], self.labels[:count], self.classes, self.config)

    def plain(self, indices: Sequence[int]) -> Tensor:
        """For evaluation: resized and center-cropped."""
        if isinstance(self.source, np.ndarray):
            return _to_float(self.source[np.asarray(indices)])
        return _to_float(np.stack([_center_crop(self._image(i), self.config.size) for i in indices]))

    def augmented(self, seed: int, keys: Sequence[tuple[int, int]]) -> Tensor:
        """For training; keys: (epoch, index)."""
        table = np.asarray(keys, np.int64)
        draws = uniforms(seed, table, 8)
        if isinstance(self.source, np.ndarray) and self.config.crop is None and not self.config.jitter:
            flipped = draws[:, 0] < (0.5 if self.config.flip else 0.0)
            images = _shift_and_flip(np.asarray(self.source[table[:, 1]]), self.config.shift, flipped, draws[:, 1:3])
            return _to_float(images)
        views = [_augment(self._image(i), self.config, d) for i, d in zip(table[:, 1], draws, strict=True)]
        return _to_float(np.stack(views))

    def _image(self, index: int) -> Image.Image:
        found = self.source[index]
        return Image.fromarray(found) if isinstance(found, np.ndarray) else open_image(found)


def open_image(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


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
    mean, std = _statistics(raw.device, raw.dtype)
    return (raw - mean) / std


@functools.cache
def _statistics(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """MEAN and STD, once per device: a copy in each step would synchronize."""
    with torch.inference_mode(False):  # an evaluation may ask first, and training cannot use inference tensors
        return tuple(torch.tensor(v, device=device, dtype=dtype).view(3, 1, 1) for v in (MEAN, STD))


def _to_float(images: np.ndarray) -> Tensor:
    channels_first = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    return torch.from_numpy(channels_first).to(torch.float32).div_(255)


def _center_crop(image: Image.Image, size: int) -> np.ndarray:
    """Shorter side to size / 0.875, bicubic, then the center; below 160 pixels the shorter side to size."""
    short = round(size / 0.875) if size >= 160 else size
    scale = short / min(image.size)
    image = image.resize(
        (max(size, round(image.width * scale)), max(size, round(image.height * scale))), Image.Resampling.BICUBIC
    )
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))


def crop_box(width: int, height: int, crop: tuple[float, float] | None, draws: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, width and height of a random resized crop, aspect 3/4 to 4/3; without `crop` the whole image."""
    if crop is None:
        return 0, 0, width, height
    low, high = crop
    area = width * height * (low + (high - low) * draws[1])
    aspect = np.exp(np.log(3 / 4) + (np.log(4 / 3) - np.log(3 / 4)) * draws[2])
    cut_width = min(width, max(1, round(float(np.sqrt(area * aspect)))))
    cut_height = min(height, max(1, round(float(np.sqrt(area / aspect)))))
    return int(draws[3] * (width - cut_width + 1)), int(draws[4] * (height - cut_height + 1)), cut_width, cut_height


def _augment(image: Image.Image, config: DataConfig, draws: np.ndarray) -> np.ndarray:
    """Random resized crop (area in config.crop, aspect 3/4 to 4/3) or shift, flip, color jitter, from eight draws."""
    if config.crop is None:
        whole = _center_crop(image, config.size)
        view = Image.fromarray(
            _shift_and_flip(whole[None].copy(), config.shift, np.array([False]), draws[None, 1:3])[0]
        )
    else:
        left, top, width, height = crop_box(*image.size, config.crop, draws)
        view = image.resize(
            (config.size, config.size), Image.Resampling.BICUBIC, (left, top, left + width, top + height)
        )
    if config.flip and draws[0] < 0.5:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if config.jitter:
        for enhance, draw in zip(
            (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color), draws[5:], strict=True
        ):
            view = enhance(view).enhance(1 + config.jitter * (2 * float(draw) - 1))
    return np.asarray(view)
