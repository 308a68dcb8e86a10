"""Pictures of data sets: of the built-in one every class, with its masks; of files the first classes."""

from pathlib import Path

import numpy as np
from PIL import Image

from mimbench.data.sources import shapes
from mimbench.data.views import Images

COLUMNS, ZOOM = 6, 2
ROWS, WIDE = 16, 10  # of a sheet of files
GROUND = (0, 0, 0)
PALETTE = (  # light enough to differ from the ground
    (230, 60, 60), (60, 180, 75), (255, 225, 25), (80, 130, 255), (245, 130, 48), (170, 70, 210),
    (70, 240, 240), (240, 50, 230), (210, 245, 60), (250, 190, 212), (0, 150, 140), (220, 190, 255),
)  # fmt: skip


def contact_sheet(path: Path) -> None:
    """Write a PNG with one row per class: six images, each with its mask beside it."""
    data = shapes.render(1024, "train")
    chosen = np.stack([np.flatnonzero(data.labels == label)[:COLUMNS] for label in range(len(shapes.CLASSES))])
    colors = np.array([GROUND, *PALETTE], np.uint8)
    pairs = np.concatenate([data.images[chosen], colors[data.masks[chosen]]], axis=3)  # (classes, columns, S, 2S, 3)
    rows, columns, height, width, _ = pairs.shape
    sheet = Image.fromarray(pairs.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, 3))
    sheet = sheet.quantize(256)  # a third of the bytes, and noise hides the difference
    sheet.resize((sheet.width * ZOOM, sheet.height * ZOOM), Image.Resampling.NEAREST).save(path, optimize=True)


def sheet_of(images: Images, path: Path) -> None:
    """Write a PNG with one row per class: its first images, cropped to squares."""
    side, shown = images.config.size, np.unique(images.labels)[:ROWS]
    sheet = np.zeros((len(shown) * side, WIDE * side, 3), np.uint8)
    for row, label in enumerate(shown):
        chosen = np.flatnonzero(images.labels == label)[:WIDE]
        drawn = (images.plain(chosen.tolist()) * 255).round().byte().numpy()  # (columns, 3, side, side)
        strip = drawn.transpose(2, 0, 3, 1).reshape(side, -1, 3)
        sheet[row * side : (row + 1) * side, : strip.shape[1]] = strip
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).save(path, optimize=True)
