"""A part of `make bench`: training images per second against torchvision's ImageFolder pipeline, compared within one run."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from limits import missed, within
from PIL import Image
from speed import interleaved, ratio

from mimbench import compat as compat
from mimbench.config.schema import DataConfig
from mimbench.data.loading import Keyed
from mimbench.data.packing import pack
from mimbench.data.sources import source
from mimbench.data.sources.splits import Listed

BATCH, SIDE, PACKED = 64, 224, 256


def photographs(folder: Path) -> None:
    """500 x 375 JPEG files of about 70 kB: soft shapes, texture and grain."""
    rng = np.random.default_rng(0)
    (folder / "train" / "all").mkdir(parents=True)
    for index in range(BATCH):
        soft, rough = (
            np.asarray(
                Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)).resize((500, 375), 3), np.float64
            )
            for h, w in ((12, 16), (94, 125))
        )
        pixels = 0.8 * soft + 0.25 * (rough - 128) + rng.normal(0, 6, soft.shape) + 20
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(
            folder / "train" / "all" / f"{index}.jpg", quality=90
        )


def loading() -> None:
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        photographs(root / "photos")
        plain = source(str(root / "photos"))
        assert isinstance(plain, Listed)
        packed = source(str(pack(plain, PACKED, root / "packed")))
        config = DataConfig(size=SIDE, crop=(0.08, 1.0))
        ours, fast = (Keyed(found.load(config, "train", root / "cache"), 0) for found in (plain, packed))
        transform = transforms.Compose([
            transforms.RandomResizedCrop(SIDE, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.RandomHorizontalFlip(), transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.5,) * 3),
        ])  # fmt: skip
        theirs = ImageFolder(root / "photos" / "train", transform)
        count = len(ours.images)
        keys = [(0, index) for index in range(count)]
        times = interleaved({
            "ours": lambda: ours.__getitems__(keys),
            "packed": lambda: fast.__getitems__(keys),
            "torchvision": lambda: torch.stack([theirs[index][0] for index in range(count)]),
        }, rounds=12, warm_up=2, clock=time.process_time)  # fmt: skip
    for name in times:
        print(f"{name}: {count / statistics.median(times[name]):.0f} images per second of CPU", end="; ")
    print(f"against torchvision {1 / ratio(times, 'ours', 'torchvision'):.2f} x from files, "
          f"{1 / ratio(times, 'packed', 'torchvision'):.2f} x packed at {PACKED} px")  # fmt: skip
    within(ratio(times, "ours", "torchvision"), 1 / 1.5, "loading from files against torchvision's pipeline")
    within(ratio(times, "packed", "torchvision"), 1 / 3, "loading from a packed copy against torchvision's pipeline")


if __name__ == "__main__":
    torch.set_num_threads(1)
    loading()
    sys.exit(missed())
