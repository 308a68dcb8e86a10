"""Random resized crops as torchvision's, a whole batch at a time, as a function of given draws."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from mimbench.data.decoding import Picture, Pixels, opened

TRIES = 10
DRAWS = 4 * TRIES  # per image: area, aspect, left and top of each try
RATIO = (3 / 4, 4 / 3)
OPEN_FILES = 64  # at a time, however large the batch
REDUCE_FROM = 2  # a JPEG file may be decoded at a fraction if the crop keeps that many times the side of its view
Crop = tuple[float, float] | None  # smallest and largest area, as a share of the image's


def crop_boxes(sizes: np.ndarray, crop: Crop, draws: np.ndarray) -> np.ndarray:
    """(n, 4) left, top, width and height, from sizes (n, 2), width and height, and draws (n, DRAWS) in [0, 1).

    Area uniform, aspect log-uniform; of ten boxes the first that fits into the image, else the largest central one of an
    allowed aspect. Without `crop` the whole image.
    """
    if crop is None:
        return np.concatenate([np.zeros_like(sizes), sizes], 1)
    area, aspect, left, top = draws.reshape(len(draws), TRIES, 4).transpose(2, 0, 1)  # (n, TRIES) each
    area = sizes.prod(1, keepdims=True) * (crop[0] + (crop[1] - crop[0]) * area)
    aspect = np.exp(math.log(RATIO[0]) + (math.log(RATIO[1]) - math.log(RATIO[0])) * aspect)
    cut = np.rint(np.sqrt(np.stack([area * aspect, area / aspect], 2))).astype(np.int64)  # (n, TRIES, 2)
    room = sizes[:, None] - cut
    fits = ((cut > 0) & (room >= 0)).all(2)
    corner = (np.stack([left, top], 2) * (room + 1)).astype(np.int64)
    rows, chosen = np.arange(len(sizes)), fits.argmax(1)
    boxes = np.concatenate([corner, cut], 2)[rows, chosen]
    return np.where(fits.any(1, keepdims=True), boxes, _central(sizes))


def _central(sizes: np.ndarray) -> np.ndarray:
    width, height = sizes.T
    cut = np.stack(
        [np.minimum(width, np.rint(height * RATIO[1])), np.minimum(height, np.rint(width / RATIO[0]))], 1
    ).astype(np.int64)
    return np.concatenate([(sizes - cut) // 2, cut], 1)


def cropped(source: Any, index: np.ndarray, crop: Crop, draws: np.ndarray, side: int) -> Iterator[np.ndarray]:
    """The crops of source[i] for each i of `index`, (h, w, 3) each, for views of `side` pixels."""
    for start in range(0, len(index), OPEN_FILES):
        some = slice(start, start + OPEN_FILES)
        pictures = [opened(source[i]) for i in index[some]]
        boxes = crop_boxes(np.array([picture.size for picture in pictures]), crop, draws[some])
        yield from (_cut(picture, box, side) for picture, box in zip(pictures, boxes, strict=True))


def _cut(picture: Picture | Pixels, box: np.ndarray, side: int) -> np.ndarray:
    """Large JPEG files are decoded at 1/2, 1/4 or 1/8."""
    left, top, width, height = box.tolist()
    if isinstance(picture, Pixels):
        return np.array(picture.array[top : top + height, left : left + width])
    share = REDUCE_FROM * side / min(width, height)
    least = (math.ceil(picture.size[0] * share), math.ceil(picture.size[1] * share)) if share <= 0.5 else None
    image = picture.pixels(least)
    if image.size == picture.size:
        return np.array(image.crop((left, top, left + width, top + height)))
    across, down = image.width / picture.size[0], image.height / picture.size[1]
    place = (left * across, top * down, (left + width) * across, (top + height) * down)
    return np.array(image.resize((round(width * across), round(height * down)), Image.Resampling.BICUBIC, place))


def resized(array: np.ndarray, side: int) -> np.ndarray:
    """(h, w, 3) uint8 -> (side, side, 3): Pillow's bicubic filter, with antialiasing, but for rounding and several times as fast."""
    image = torch.from_numpy(array).permute(2, 0, 1)[None]
    found = F.interpolate(image, (side, side), mode="bicubic", antialias=True, align_corners=False)
    return found[0].permute(1, 2, 0).numpy()
