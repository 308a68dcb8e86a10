"""`show features`: the first three principal components of an encoder's patch features as color."""

from __future__ import annotations

from pathlib import Path

import torch

from mimbench.data.views import normalize
from mimbench.report.format import count
from mimbench.show.colors import Projection
from mimbench.show.images import as_pictures, encoder_data, shown_images
from mimbench.show.sheet import Sheet, Strip, write_sheet
from mimbench.show.subject import Subject
from mimbench.store.files import file_name

FITTED = 64  # images whose patches say what the components are, at least


@torch.no_grad()
def show_features(subject: Subject, given: str | None, shown: int) -> Path:
    encoder = subject.encoder()
    data = encoder_data(subject, encoder, given)
    images = shown_images(data, given, max(FITTED, shown), subject.store.cache)
    raw = images.plain(range(len(images)))
    blocks = _half_and_last(encoder.depth)
    taps = encoder(normalize(raw), taps=blocks).taps
    grid, strips = encoder.grid, []
    for block in blocks:
        patches = encoder.body.norm(taps[block][:, 1:]) if block == encoder.depth - 1 else taps[block][:, 1:]
        projection = Projection(patches.flatten(0, 1))
        colors = projection(patches[:shown]).reshape(-1, grid.rows, grid.columns, 3)
        label = f"block {block + 1} of {encoder.depth}: {100 * projection.share:.0f} % of the variance"
        strips.append(Strip(label, list(colors)))
    note = (
        f"Red, green and blue: the first three principal components over the patches of {count(len(images), 'image')} of "
        f"{file_name(data.name)}. Colors of one row have nothing to do with those of another."
    )
    sheet = Sheet(f"Patch features: {subject.title}", note, [Strip("image", as_pictures(raw[:shown])), *strips])
    return write_sheet(sheet, subject.path("features"), data.name)


def _half_and_last(depth: int) -> tuple[int, ...]:
    return tuple(dict.fromkeys((max(0, depth // 2 - 1), depth - 1)))
