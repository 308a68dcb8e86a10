"""The built-in data set `shapes`: rendered into the cache on first use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mimbench.config.schema import DataConfig
from mimbench.data.sources import shapes
from mimbench.data.sources.ade20k import FOLDERS
from mimbench.data.sources.base import Source
from mimbench.data.views import Images
from mimbench.store.cached import cached_folder

COUNTS = {"train": 20_000, "labeled": 2_000, "val": 1_000, "test": 4_000}


class BuiltIn(Source):
    fixed_size = True

    def facts(self, config: DataConfig) -> dict[str, Any]:
        return {"shapes": shapes.VERSION, "size": config.size}

    def counts(self) -> dict[str, int]:
        return COUNTS

    def classes(self) -> int:
        return len(shapes.CLASSES)

    def load(self, config: DataConfig, split: str, cache: Path) -> Images:
        images, labels = self._rendered(config.size, cache, f"{split}-images.npy", f"{split}-labels.npy")
        return Images(np.load(images, mmap_mode="r"), np.load(labels), len(shapes.CLASSES), config)

    def has_masks(self) -> bool:
        return True

    def segmentation_facts(self) -> dict[str, Any]:
        return {"segmentation_manifest": f"{self.name} version {shapes.VERSION}"}

    def segmentation_counts(self) -> dict[str, int]:
        return COUNTS

    def segmentation_root(self, config: DataConfig, counts: dict[str, int | None], cache: Path) -> Path:
        """The same images as PNG files. The ground is a class, as sky and wall are in ADE20K."""

        def fill(root: Path) -> None:
            for split, folder in FOLDERS.items():
                images, masks = self.load(config, split, cache).head(counts[split]), self.masks(config, split, cache)
                for kind in ("images", "annotations"):
                    (root / kind / folder).mkdir(parents=True)
                for index in range(len(images)):
                    name = f"shapes_{index:06d}.png"
                    Image.fromarray(np.asarray(images.source[index])).save(root / "images" / folder / name)
                    Image.fromarray(masks[index] + 1).save(root / "annotations" / folder / name)
            (root / "classes.json").write_text(json.dumps(["ground", *shapes.CLASSES]))

        sizes = "-".join(str(counts[split] or "all") for split in FOLDERS)
        return cached_folder(cache / f"{self.name}-ade-v{shapes.VERSION}-{config.size}-{sizes}", fill)

    def masks(self, config: DataConfig, split: str, cache: Path) -> np.ndarray:
        """(n, S, S), 0 = ground, 1.. = the classes."""
        (masks,) = self._rendered(config.size, cache, f"{split}-masks.npy")
        return np.load(masks, mmap_mode="r")

    def _rendered(self, size: int, cache: Path, *names: str) -> list[Path]:
        def fill(folder: Path) -> None:
            for split, count in COUNTS.items():
                for name, array in shapes.render(count, split, size, self.name)._asdict().items():
                    np.save(folder / f"{split}-{name}.npy", array)

        folder = cached_folder(cache / f"{self.name}-{shapes.VERSION}-{size}", fill, names)
        return [folder / name for name in names]
