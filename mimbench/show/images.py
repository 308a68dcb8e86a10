"""The images of a picture: of the run's own data, or of a folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mimbench.config.schema import DataConfig
from mimbench.data.sources import opened, shapes
from mimbench.data.sources.places import BUILT_IN
from mimbench.data.views import Images
from mimbench.models.encoder import Encoder
from mimbench.run.data import data_of
from mimbench.show.subject import Subject


def shown_images(data: DataConfig, given: str | None, count: int, cache: Path) -> Images:
    """The first of `data`'s held-out images, or of those `given`, rendered plainly: no crop, shift, flip or jitter."""
    plain = replace(data, name=given or data.name, images=None, crop=None, shift=0, flip=False, jitter=0.0)
    if plain.name in BUILT_IN:
        drawn = shapes.render(count, "val", plain.size, plain.name)
        return Images(drawn.images, drawn.labels, len(shapes.CLASSES), plain)
    found = opened(plain.name).load(plain, "train" if given else "val", cache)
    return found.head(min(count, len(found)))


def run_data(spec: dict[str, Any], given: str | None) -> DataConfig:
    """Of a run; the folder that it trained on need not be there where others are given."""
    if given is None:
        return data_of(spec)
    size = spec["recipe"]["data"]["size"] if "recipe" in spec else spec["data"]["size"]
    return DataConfig(name=given, size=size)


def encoder_data(subject: Subject, encoder: Encoder, given: str | None) -> DataConfig:
    """Of the size that an encoder takes; those it was pre-trained on, if it was here."""
    run = subject.run(("pretrain",))
    if run is not None:
        return run_data(run.spec(), given)
    return DataConfig(name=given or DataConfig.name, size=encoder.grid.rows * encoder.grid.patch)


def as_pictures(images: Tensor) -> list[np.ndarray]:
    """(B, 3, H, W) in [0, 1] -> (H, W, 3) each."""
    return list(images.detach().float().clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy())
