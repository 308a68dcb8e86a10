"""`show attention`: where the heads of the last block look, from the class token and from some patches."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from torch import Tensor

from mimbench.data.views import normalize
from mimbench.errors import UserError
from mimbench.models.encoder import Encoder
from mimbench.report.colors import ACCENT
from mimbench.show.images import as_pictures, encoder_data, shown_images
from mimbench.show.sheet import Sheet, Strip, write_sheet
from mimbench.show.subject import Subject
from mimbench.store.files import file_name

IMAGES, HEADS = 3, 12  # of a sheet, at most
POINTS = ((0.5, 0.5), (0.25, 0.75))  # down, right
MARK = np.array([int(ACCENT[i : i + 2], 16) / 255 for i in (1, 3, 5)])


@torch.no_grad()
def last_attention(encoder: Encoder, images: Tensor) -> Tensor:
    """(B, heads, T, T) of normalized images: each token's row sums to 1. The tokens before the patches come first."""
    if encoder.config.type == "swin":
        raise UserError(
            "encoder of type 'swin': its blocks look within windows; only vit and beit attend to all patches."
        )
    attention, seen = encoder.body.blocks[-1].attn, []
    attention.fused_attn = False  # the fused kernel keeps no weights
    hook = attention.attn_drop.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    try:
        encoder(images)
    finally:
        hook.remove()
    return seen[0]


def show_attention(subject: Subject, given: str | None, shown: int) -> Path:
    encoder = subject.encoder()
    data = encoder_data(subject, encoder, given)
    images = shown_images(data, given, min(shown, IMAGES), subject.store.cache)
    raw = images.plain(range(len(images)))
    weights = last_attention(encoder, normalize(raw))[:, :HEADS]
    grid, prefix = encoder.grid, encoder.prefix
    strips = []
    for picture, of_image in zip(as_pictures(raw), weights, strict=True):
        for label, token in queries(encoder):
            looks = of_image[:, token, prefix:].unflatten(1, (grid.rows, grid.columns))
            patch = token - prefix if token >= prefix else None
            strips.append(Strip(label, [_marked(picture, patch, encoder), *map(_heat, [looks.mean(0), *looks])]))
    heads = ["", "mean of heads", *(f"head {head + 1}" for head in range(weights.shape[1]))]
    note = (
        f"The last block's attention from the class token, or from the framed patch, to the patches of images of {file_name(data.name)}. "
        "Each map has a scale of its own."
    )
    sheet = Sheet(f"Attention: {subject.title}", note, strips, heads)
    return write_sheet(sheet, subject.path("attention"), data.name)


def queries(encoder: Encoder) -> list[tuple[str, int]]:
    """What looks, and its place among the tokens."""
    grid = encoder.grid
    found = [("class token", 0)] if encoder.config.class_token and encoder.config.attention == "full" else []
    for down, right in POINTS:
        row, column = min(int(down * grid.rows), grid.rows - 1), min(int(right * grid.columns), grid.columns - 1)
        found.append((f"patch {row + 1}, {column + 1}", encoder.prefix + row * grid.columns + column))
    return found


def _heat(looks: Tensor) -> np.ndarray:
    values = looks.float().cpu().numpy()
    colors: np.ndarray = mpl.colormaps["magma"]((values - values.min()) / max(np.ptp(values), 1e-12))[..., :3]
    return colors


def _marked(picture: np.ndarray, patch: int | None, encoder: Encoder) -> np.ndarray:
    """The image, the patch that looks in a frame."""
    if patch is None:
        return picture
    zoom = max(1, 96 // len(picture))  # so that a frame is a thin line on small images too
    large, side = picture.repeat(zoom, 0).repeat(zoom, 1), encoder.grid.patch * zoom
    top, left = (place * side for place in divmod(patch, encoder.grid.columns))
    line = max(2, len(large) // 60)
    inner = large[top + line : top + side - line, left + line : left + side - line].copy()
    large[top : top + side, left : left + side] = MARK
    large[top + line : top + side - line, left + line : left + side - line] = inner
    return large
