"""`show masks`: what a masker hides, over images, how often it hides each patch, and how many of an image."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_rgb

from mimbench import registry
from mimbench.data.views import Images
from mimbench.errors import UserError
from mimbench.parts import Masks, PatchGrid
from mimbench.pretrain.masks import StepMasks
from mimbench.report.colors import ACCENT, FAINT, INK, MUTED
from mimbench.show.images import as_pictures, run_data, shown_images
from mimbench.show.sheet import Sheet, Strip, write_sheet
from mimbench.show.subject import Subject

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DRAWS, BATCH = 4096, 64  # images that a coverage is counted over; some maskers draw sizes once per batch
BLOCKS = "Dark2"  # colors of blocks that are predicted each by itself
TINT = 0.55  # of the color over a visible patch that is predicted

Spec = dict[str, Any]


@dataclass(frozen=True)
class Coverage:
    """Counts over many images."""

    images: int
    masked: np.ndarray  # (rows, columns): in how many images the patch is masked
    predicted: np.ndarray  # and predicted
    counts: np.ndarray  # (N + 1,): how many images have this many masked patches


def coverage(spec: Spec, grid: PatchGrid, images: int = DRAWS, seed: int = 0) -> Coverage:
    drawn = _drawn(spec, grid, seed)
    found = [drawn.whole(BATCH, step) for step in range(images // BATCH)]
    masked = np.concatenate([masks.masked.numpy() for masks in found])
    predicted = np.concatenate([predicted_patches(masks) for masks in found])
    shape = (grid.rows, grid.columns)
    counts = np.bincount(masked.sum(1), minlength=grid.count + 1)
    return Coverage(len(masked), masked.sum(0).reshape(shape), predicted.sum(0).reshape(shape), counts)


def example_masks(spec: Spec, grid: PatchGrid, images: int, seed: int = 0) -> Masks:
    """Those that a training with this seed draws for its first images."""
    return _drawn(spec, grid, seed).whole(images, 0)


def _drawn(spec: Spec, grid: PatchGrid, seed: int) -> StepMasks:
    return StepMasks(registry.build("masker", spec), grid, drop=False, seed=seed)


def predicted_patches(masks: Masks) -> np.ndarray:
    """(B, N), True where a patch is predicted."""
    predicted = np.zeros(masks.masked.numel(), dtype=bool)
    predicted[masks.predicted.numpy()] = True
    return predicted.reshape(masks.masked.shape)


def mask_colors(masks: Masks, grid: PatchGrid) -> np.ndarray:
    """(B, rows, columns, 3): visible, masked, predicted; of a masker of blocks, each block in its own."""
    masked = masks.masked.numpy()
    colors = np.where(masked[..., None], to_rgb(MUTED), to_rgb(FAINT))
    if masks.blocks is None:
        predicted = predicted_patches(masks)
        for seen, color in ((masked, INK), (~masked, ACCENT)):
            colors[predicted & seen] = to_rgb(color)
    else:
        for image, blocks in enumerate(masks.blocks.numpy()):
            for index, block in enumerate(blocks):
                colors[image, block] = colormaps[BLOCKS](index)[:3]
    return colors.reshape(len(masked), grid.rows, grid.columns, 3)


def over_images(pictures: list[np.ndarray], masks: Masks, grid: PatchGrid) -> list[np.ndarray]:
    """The images where they are visible; a visible patch that is predicted is tinted."""
    colors = mask_colors(masks, grid)
    masked = masks.masked.numpy().reshape(colors.shape[:3])
    strength = np.where(masked, 1.0, TINT * predicted_patches(masks).reshape(masked.shape))
    found = []
    for picture, color, alpha in zip(pictures, colors, strength, strict=True):
        enlarge = functools.partial(_enlarged, shape=picture.shape[:2])
        found.append(picture * (1 - enlarge(alpha)[..., None]) + enlarge(color) * enlarge(alpha)[..., None])
    return found


def _enlarged(cells: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return cells.repeat(shape[0] // cells.shape[0], 0).repeat(shape[1] // cells.shape[1], 1)


def show_masks(subject: Subject, given: str | None, shown: int) -> Path:
    """Of a run, or of a row that need not be trained."""
    folder = subject.run(("pretrain",))
    if folder is None:
        raise UserError(f"{subject.title}: has no masker: nothing was pre-trained.")
    spec = folder.spec()
    recipe, seed = spec["recipe"], spec["seed"]
    grid = PatchGrid.of(recipe["data"]["size"], recipe["encoder"]["patch"])
    images = shown_images(run_data(spec, given), given, shown, subject.store.cache)
    return draw_masks(subject, recipe["masker"], grid, images, seed)


def draw_masks(subject: Subject, masker: Spec, grid: PatchGrid, images: Images, seed: int = 0) -> Path:
    pictures, masks = as_pictures(images.plain(range(len(images)))), example_masks(masker, grid, len(images), seed)
    found = coverage(masker, grid, seed=seed)
    mean = (found.counts * np.arange(len(found.counts))).sum() / found.images
    note = (
        f"{described(masker)}. On {grid.rows} x {grid.columns} patches {mean:.1f} are masked on average "
        f"({100 * mean / grid.count:.0f} %), counted over {found.images:,} images. {_meaning(masks)}"
    )
    strips = [Strip("image", pictures), Strip("masks", over_images(pictures, masks, grid))]
    plots: list[Callable[[Axes], None]] = [functools.partial(_plot_map, found=found, of=found.masked, title="masked")]
    if (found.predicted != found.masked).any():
        plots.append(functools.partial(_plot_map, found=found, of=found.predicted, title="predicted"))
    plots.append(functools.partial(_plot_counts, found=found))
    sheet = Sheet(f"Masks: {subject.title}", note, strips, plots=plots)
    return write_sheet(sheet, subject.path("masks"), images.config.name)


def described(masker: Spec) -> str:
    """`blockwise, ratio 0.4, min_block 4`."""
    arguments = (
        f"{key} {value}"
        for key, value in masker.items()
        if key not in ("type", "version", "origin") and value is not None and value is not False
    )
    return ", ".join([masker["type"], *arguments])


def _meaning(masks: Masks) -> str:
    """Of the colors that are there."""
    if masks.blocks is not None:
        return "Gray is masked; each colored block is predicted by itself."
    masked, predicted = masks.masked.numpy(), predicted_patches(masks)
    said = ["Dark: masked and predicted."] if (masked & predicted).any() else []
    if (masked & ~predicted).any():
        said.append("Gray: masked, not predicted.")
    if (~masked & predicted).any():
        said.append("Blue: visible, and predicted too.")
    if masks.noise is not None:
        said.append("Without a teacher, whose attention decides in training what stays visible: chance alone.")
    return " ".join(said) or "Nothing is masked."


def _plot_map(axes: Axes, found: Coverage, of: np.ndarray, title: str) -> None:
    figure, box = axes.get_figure(root=True), axes.get_position()
    assert figure is not None
    width = box.height * figure.get_figheight() / figure.get_figwidth() * of.shape[1] / of.shape[0]
    axes.set_position((box.x0, box.y0, width, box.height))  # at the left of its place, the colors' scale beside it
    image = axes.imshow(of / found.images, cmap="viridis", vmin=0, vmax=1, aspect="auto")
    axes.set_axis_off()
    axes.set_title(f"how often {title}", fontsize=9, fontweight="normal")
    bar = figure.colorbar(image, cax=figure.add_axes((box.x0 + 1.06 * width, box.y0, 0.05 * width, box.height)))
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=7, length=0)


def _plot_counts(axes: Axes, found: Coverage) -> None:
    there = np.flatnonzero(found.counts)
    low, high = max(0, there[0] - 2), min(len(found.counts), there[-1] + 3)
    axes.bar(np.arange(low, high), 100 * found.counts[low:high] / found.images, width=0.9, color=ACCENT)
    axes.set_title("masked patches of an image", fontsize=9, fontweight="normal")
    axes.set_ylabel("% of images", fontsize=8)
    axes.tick_params(labelsize=8, length=0)
    axes.locator_params(axis="x", integer=True, nbins=8)
    axes.grid(False)
