"""The regularizers of fine-tuning, by timm. Each is a function of (seed, epoch, image) or of (seed, step).

timm draws from global generators. They are seeded for every image and every step.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from mimbench import compat as compat  # before timm
from mimbench.data.loading import Keyed
from mimbench.data.sampling import derive
from mimbench.data.views import MEAN, STD, normalize, to_unit
from mimbench.errors import RunFailed

CUTMIX_CHANCE = 0.5  # where both are on: of a step to mix by boxes, as in BEiT, MAE and DeiT


class Augmented(Dataset[Any]):
    """RandAugment on the views of `keyed`, then random erasing."""

    def __init__(self, keyed: Keyed, size: int, rand_augment: str | None, erasing: float) -> None:
        from timm.data.auto_augment import rand_augment_transform
        from timm.data.random_erasing import RandomErasing

        self.keyed, self.seed = keyed, keyed.seed
        fill = tuple(round(255 * value) for value in MEAN)
        # timm's own for this size, with the interpolation of BEiT, MAE and DeiT
        hints = {"translate_const": int(size * 0.45), "img_mean": fill, "interpolation": Image.Resampling.BICUBIC}
        self.transform = None if rand_augment is None else rand_augment_transform(rand_augment, hints)
        for operation in () if self.transform is None else self.transform.ops:
            if operation.name.startswith("Posterize"):
                operation.aug_fn = posterize
        self.erase = RandomErasing(erasing, mode="pixel", device="cpu") if erasing else None

    def __getitems__(self, keys: list[tuple[int, int]]) -> dict[str, Any]:
        batch = self.keyed.__getitems__(keys)
        views = [self._augmented(view, derive(self.seed, "augment", *key))
                 for view, key in zip(batch["raw"], keys, strict=True)]  # fmt: skip
        return {**batch, "raw": torch.stack(views)}

    def _augmented(self, view: Tensor, drawn: int) -> Tensor:
        """(3, S, S) bytes; with erasing, whose noise they cannot hold, in the unit of `to_unit`."""
        _seed_globals(drawn)
        if self.transform is not None:
            found = np.array(self.transform(Image.fromarray(view.permute(1, 2, 0).numpy())))
            view = torch.from_numpy(found).permute(2, 0, 1)
        if self.erase is None:
            return view
        view = to_unit(view)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(drawn)
            seen = normalize(view)
            erased = self.erase(seen.clone())
        restored = erased * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
        return torch.where(erased == seen, view, restored)


def posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """With no bit kept, black. timm draws that at the highest magnitudes, and newer versions of Pillow refuse it."""
    if bits < 1:
        return Image.new(image.mode, image.size)
    return image if bits >= 8 else ImageOps.posterize(image, bits)


class Mix:
    """Mixup and CutMix of a rank's images, each with the one at the opposite place; one draw per step, on all ranks alike."""

    def __init__(self, mixup: float, cutmix: float, label_smoothing: float, classes: int, seed: int) -> None:
        from timm.data.mixup import Mixup

        self.seed = seed
        self.mixup = Mixup(
            mixup, cutmix, switch_prob=CUTMIX_CHANCE, label_smoothing=label_smoothing, num_classes=classes
        )

    def __call__(self, batch: dict[str, Tensor], step: int) -> dict[str, Tensor]:
        """With labels (B, classes) that add up to 1."""
        if len(batch["raw"]) % 2:
            raise RunFailed(
                f"mixup and cutmix mix pairs: {len(batch['raw'])} images per rank are no whole number of them"
            )
        np.random.seed(derive(self.seed, "mix", step) % 2**32)
        raw, label = self.mixup(to_unit(batch["raw"]), batch["label"])
        return {**batch, "raw": raw, "label": label}


def _seed_globals(drawn: int) -> None:
    np.random.seed(drawn % 2**32)
    random.seed(drawn)
