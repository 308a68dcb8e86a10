"""Views: several renderings of each sample, a whole batch at a time. A function of (seed, copy, epoch, index) only."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mimbench.config.terms import ViewConfig
from mimbench.data.crops import DRAWS, crop_boxes, cropped, resized
from mimbench.data.sampling import derive, uniforms
from mimbench.data.views import Source

LANES = 16  # draws per copy: flip, 4 that are not used, jitter?, its 4, gray?, blur?, its sigma, solarize?
GRAY = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow and torchvision have it
TO_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


def copies_of(views: dict[str, ViewConfig]) -> dict[str, tuple[ViewConfig, int]]:
    """Each rendering of a sample: `global.0` and `global.1` of a view `global` with two copies."""
    return {
        f"{name}.{index}" if view.count > 1 else name: (view, index)
        for name, view in views.items()
        for index in range(view.count)
    }


def side_of(view: ViewConfig, size: int, patch: int) -> int:
    """The side of a view in pixels: at least two patches."""
    return max(2, round(view.share * size / patch)) * patch


def render(
    source: Source,
    keys: np.ndarray,
    views: dict[str, ViewConfig],
    size: int,
    patch: int,
    seed: int,
) -> dict[str, Tensor]:
    """{copy: (B, 3, side, side) in [0, 1]} of the samples `keys`, (B, 2): epoch and index."""
    rendered = {}
    for name, (view, copy) in copies_of(views).items():
        draws = uniforms(derive(seed, "view", name), keys, LANES)
        corners = uniforms(derive(seed, "view", name, "crop"), keys, DRAWS)
        images = _cropped(source, keys[:, 1], view, side_of(view, size, patch), corners)
        if view.flip:
            images = torch.where(_chosen(draws[:, 0], 0.5), images.flip(-1), images)
        rendered[name] = _recolored(images, view, copy, draws)
    return rendered


def _chosen(draws: np.ndarray, chance: float) -> Tensor:
    return torch.from_numpy(draws < chance).view(-1, 1, 1, 1)


def _cropped(source: Source, index: np.ndarray, view: ViewConfig, side: int, draws: np.ndarray) -> Tensor:
    """Random resized crops: of images in memory by one bicubic sampling of the batch, of files one by one."""
    if not isinstance(source, np.ndarray):
        found = [resized(crop, side) for crop in cropped(source, index, view.crop, draws, side)]
        return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).float().div_(255)
    images = torch.from_numpy(np.asarray(source[index])).permute(0, 3, 1, 2).float().div_(255)
    rows, columns = images.shape[-2:]
    boxes = crop_boxes(np.tile([columns, rows], (len(images), 1)), view.crop, draws).astype(np.float64)
    if np.equal(boxes, [0, 0, side, side]).all():
        return images
    left, top, width, height = torch.from_numpy(boxes).float().T
    scale = torch.stack([width / columns, height / rows], 1)  # (B, 2)
    center = torch.stack([2 * left + width - columns, 2 * top + height - rows], 1) / torch.tensor([columns, rows])
    theta = torch.cat([torch.diag_embed(scale), center.unsqueeze(-1)], 2)  # (B, 2, 3)
    finer = max(1, math.ceil(max(width.max(), height.max()).item() / side))  # against aliasing, then averaged
    grid = F.affine_grid(theta, [len(images), 3, side * finer, side * finer], align_corners=False)
    sampled = F.grid_sample(images, grid, mode="bicubic", padding_mode="reflection", align_corners=False)
    return F.avg_pool2d(sampled, finer).clamp_(0, 1)


def _recolored(images: Tensor, view: ViewConfig, copy: int, draws: np.ndarray) -> Tensor:
    if any(view.jitter):
        images = torch.where(
            _chosen(draws[:, 5], view.jitter_chance), _jittered(images, view.jitter, draws[:, 6:10]), images
        )
    if view.gray:
        images = torch.where(_chosen(draws[:, 10], view.gray), _luma(images).expand_as(images), images)
    blur, solarize = (chances[copy % len(chances)] for chances in (view.blur, view.solarize))
    if blur:
        images = torch.where(_chosen(draws[:, 11], blur), _blurred(images, draws[:, 12]), images)
    if solarize:
        images = torch.where(_chosen(draws[:, 13], solarize), torch.where(images >= 0.5, 1 - images, images), images)
    return images


def _luma(images: Tensor) -> Tensor:
    return (images * torch.tensor(GRAY).view(3, 1, 1)).sum(1, keepdim=True)


def _jittered(images: Tensor, strengths: tuple[float, ...], draws: np.ndarray) -> Tensor:
    """Brightness, contrast, saturation as torchvision's, in this order; hue by rotation in YIQ."""
    brightness, contrast, saturation = (
        torch.from_numpy(1 + strength * (2 * draws[:, lane] - 1)).float().view(-1, 1, 1, 1)
        for lane, strength in enumerate(strengths[:3])
    )
    images = (images * brightness).clamp_(0, 1)
    mean = _luma(images).mean((2, 3), keepdim=True)
    images = (mean + contrast * (images - mean)).clamp_(0, 1)
    luma = _luma(images)
    images = (luma + saturation * (images - luma)).clamp_(0, 1)
    if not strengths[3]:
        return images
    angle = torch.from_numpy(2 * math.pi * strengths[3] * (2 * draws[:, 3] - 1)).float()
    turn = torch.eye(3).repeat(len(images), 1, 1)
    turn[:, 1, 1] = turn[:, 2, 2] = angle.cos()
    turn[:, 1, 2], turn[:, 2, 1] = -angle.sin(), angle.sin()
    return torch.einsum("bij,bjhw->bihw", TO_YIQ.inverse() @ turn @ TO_YIQ, images).clamp_(0, 1)


def _blurred(images: Tensor, draws: np.ndarray) -> Tensor:
    """Gaussian, sigma from 0.1 to 2 pixels at a side of 224, in proportion at other sizes."""
    count, side = len(images), images.shape[-1]
    sigma = torch.from_numpy(0.1 + 1.9 * draws).float().view(-1, 1) * side / 224
    radius = max(1, math.ceil(3 * 2.0 * side / 224))
    offsets = torch.arange(-radius, radius + 1).float()
    kernel = torch.softmax(-(offsets**2) / (2 * sigma**2), dim=1).repeat_interleave(3, 0)  # (B * 3, 2 radius + 1)
    flat = F.pad(images.reshape(1, count * 3, side, side), (radius,) * 4, mode="reflect")
    flat = F.conv2d(flat, kernel.view(count * 3, 1, 1, -1), groups=count * 3)
    return F.conv2d(flat, kernel.view(count * 3, 1, -1, 1), groups=count * 3).view_as(images)
