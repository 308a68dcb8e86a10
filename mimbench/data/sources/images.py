"""Image sets: the embedded shapes, and folders of images. Labelled train, val and test splits never change with seeds."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor

from mimbench.config.schema import DataConfig
from mimbench.data.sampling import derive, uniforms
from mimbench.data.sources import shapes
from mimbench.errors import UserError, unknown
from mimbench.store.files import fingerprint, make_folder_once

SPLITS = ("train", "labelled", "val", "test")  # train: for pre-training, its labels unused
SHAPES_COUNT = {"train": 20_000, "labelled": 1_000, "val": 1_000, "test": 2_000}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DATA_ROOT = "MIMBENCH_DATA"
EVERY_NTH_HELD_OUT = 20  # of a folder's training images, for choosing hyper-parameters
FOLDER_SPLITS = 2  # version of how a folder's files are dealt out to the splits


class Images:
    """One split: uint8 images in memory or files on disk, drawn as batches of the view `raw` in [0, 1]."""

    def __init__(
        self, source: np.ndarray | Sequence[Path], labels: np.ndarray, classes: int, config: DataConfig
    ) -> None:
        self.source, self.labels, self.classes, self.config = source, labels, classes, config

    def __len__(self) -> int:
        return len(self.labels)

    def head(self, count: int | None) -> Images:
        if count is not None and count > len(self):
            raise UserError(f"{self.config.name}: {count} images asked for, {len(self)} are there.")
        return Images(self.source[:count], self.labels[:count], self.classes, self.config)

    def plain(self, indices: Sequence[int]) -> Tensor:
        """(B, 3, S, S) in [0, 1], for evaluation: resized and cropped in the centre, nothing random."""
        if isinstance(self.source, np.ndarray):
            return _to_float(self.source[np.asarray(indices)])
        return torch.stack([_to_float(_centre(_open(self.source[i]), self.config.size)[None])[0] for i in indices])

    def drawn(self, seed: int, keys: Sequence[tuple[int, int]]) -> Tensor:
        """(B, 3, S, S) in [0, 1], augmented: a function of (seed, epoch, index) alone."""
        table = np.asarray(keys, np.int64)
        draws = uniforms(seed, table, 8)
        if isinstance(self.source, np.ndarray) and self.config.crop is None and not self.config.jitter:
            flipped = draws[:, 0] < (0.5 if self.config.flip else 0.0)
            images = _moved(np.asarray(self.source[table[:, 1]]), self.config.shift, flipped, draws[:, 1:3])
            return _to_float(images)
        views = [_augment(self._image(i), self.config, d) for i, d in zip(table[:, 1], draws, strict=True)]
        return _to_float(np.stack(views))

    def _image(self, index: int) -> Image.Image:
        found = self.source[index]
        return Image.fromarray(found) if isinstance(found, np.ndarray) else _open(found)


def _moved(images: np.ndarray, most: int, flipped: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Each image shifted by up to `most` pixels either way, the border repeated, and mirrored where `flipped`."""
    count, side = images.shape[:2]
    if not most:
        images[flipped] = images[flipped, :, ::-1]
        return images
    offsets = (draws * (2 * most + 1)).astype(np.int32) - most
    span = np.arange(side, dtype=np.int32)
    rows = np.clip(span + offsets[:, :1], 0, side - 1)
    columns = np.clip(np.where(flipped[:, None], span[::-1], span) + offsets[:, 1:], 0, side - 1)
    first = np.arange(count, dtype=np.int32) * side
    index = (first[:, None, None] + rows[:, :, None]) * side + columns[:, None, :]
    return images.reshape(-1, images.shape[-1])[index]


def normalise(raw: Tensor) -> Tensor:
    """The view `image` from the view `raw`: what an encoder sees."""
    mean, std = _statistics(raw.device, raw.dtype)
    return (raw - mean) / std


@functools.cache
def _statistics(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """MEAN and STD, once a device: carrying them there each step would make the step wait."""
    with torch.inference_mode(False):  # whoever asks first, training uses them too
        return tuple(torch.tensor(v, device=device, dtype=dtype).view(3, 1, 1) for v in (MEAN, STD))


def _to_float(images: np.ndarray) -> Tensor:
    channels_first = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    return torch.from_numpy(channels_first).to(torch.float32).div_(255)


def _open(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def _centre(image: Image.Image, size: int) -> np.ndarray:
    """Shorter side to size / 0.875, bicubic, then the centre; small images are only resized."""
    short = round(size / 0.875) if size >= 160 else size
    scale = short / min(image.size)
    image = image.resize(
        (max(size, round(image.width * scale)), max(size, round(image.height * scale))), Image.Resampling.BICUBIC
    )
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size)))


def _augment(image: Image.Image, config: DataConfig, draws: np.ndarray) -> np.ndarray:
    """Random resized crop (area in config.crop, aspect 3/4 to 4/3), flip, jitter; all from the eight draws."""
    if config.crop is None:
        whole = _centre(image, config.size)
        view = Image.fromarray(_moved(whole[None].copy(), config.shift, np.array([False]), draws[None, 1:3])[0])
    else:
        low, high = config.crop
        area = image.width * image.height * (low + (high - low) * draws[1])
        aspect = np.exp(np.log(3 / 4) + (np.log(4 / 3) - np.log(3 / 4)) * draws[2])
        width = min(image.width, max(1, round(float(np.sqrt(area * aspect)))))
        height = min(image.height, max(1, round(float(np.sqrt(area / aspect)))))
        left, top = int(draws[3] * (image.width - width + 1)), int(draws[4] * (image.height - height + 1))
        view = image.resize(
            (config.size, config.size), Image.Resampling.BICUBIC, (left, top, left + width, top + height)
        )
    if config.flip and draws[0] < 0.5:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if config.jitter:
        for enhance, draw in zip(
            (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color), draws[5:], strict=True
        ):
            view = enhance(view).enhance(1 + config.jitter * (2 * float(draw) - 1))
    return np.asarray(view)


# where the sets come from


@dataclass(frozen=True)
class Survey:
    """What a plan must know of a folder of images. Of a million images it takes a while to find out."""

    manifest: str
    counts: dict[str, int]


def survey(name: str) -> Survey:
    folder = _folder(name)
    train, test = (_files(folder / part) for part in ("train", "val"))
    _class_names(train, test)
    held_out = -(-len(train) // EVERY_NTH_HELD_OUT)
    counts = {"train": len(train), "labelled": len(train) - held_out, "val": held_out, "test": len(test)}
    # names and sizes: cheap, and enough to tell two versions of a data set apart
    return Survey(_fingerprint_of(folder, [path for path, _ in (*train, *test)]), counts)


def facts(config: DataConfig, survey: Callable[[str], Survey] = survey) -> dict[str, Any]:
    """What identifies the images, for a run's spec: the generator's version, or a fingerprint of the files."""
    if config.name == "shapes":
        return {"shapes": shapes.VERSION, "size": config.size}
    return {"manifest": survey(config.name).manifest}


def segmentation_facts(name: str) -> dict[str, Any]:
    """What identifies a folder in ADE20K's layout; nothing more for the embedded data, which follow from `facts`."""
    if name == "shapes":
        return {}
    root = segmentation_root(name)
    files = sorted(p for kind in ("images", "annotations") for p in (root / kind).rglob("*") if p.is_file())
    manifest, classes = _fingerprint_of(root, files), segmentation_classes(root)
    return {"segmentation_manifest": fingerprint([manifest, classes]) if classes else manifest}


def segmentation_root(name: str) -> Path:
    folder = Path(os.environ.get(DATA_ROOT, "")) / name
    if not (folder / "images" / "training").is_dir():
        raise UserError(
            f"evaluation.segmentation_data: no ADE20K layout (images/training) in {folder}; see {DATA_ROOT}."
        )
    return folder


def segmentation_classes(root: Path) -> list[str] | None:
    """What the values 1, 2, .. of the masks mean, as the folder's classes.json tells; None: ADE20K's 150."""
    path = root / "classes.json"
    if not path.exists():
        return None
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}).") from error
    if not isinstance(names, list) or len(names) < 2 or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path}: must be a list of the names of at least two classes.")
    if len(set(names)) < len(names):
        raise UserError(f"{path}: names a class twice.")
    return names


def counts(name: str, survey: Callable[[str], Survey] = survey) -> dict[str, int]:
    """How many images each split has."""
    return SHAPES_COUNT if name == "shapes" else survey(name).counts


def load(config: DataConfig, split: str, cache: Path) -> Images:
    """One split of a data set; shapes are made on first use, into the cache."""
    if config.name == "shapes":
        folder = _shapes_cache(cache, config.size)
        source = np.load(folder / f"{split}-images.npy", mmap_mode="r")
        return Images(source, np.load(folder / f"{split}-labels.npy"), len(shapes.CLASSES), config)
    return _load_folder(config, split)


def load_masks(config: DataConfig, split: str, cache: Path) -> np.ndarray:
    if config.name != "shapes":
        raise UserError(f"{config.name}: has no masks of its own; name an ADE20K folder as segmentation_data.")
    return np.load(_shapes_cache(cache, config.size) / f"{split}-masks.npy", mmap_mode="r")


def _shapes_cache(cache: Path, size: int) -> Path:
    """The folder of the rendered splits."""

    def fill(folder: Path) -> None:
        for split, count in SHAPES_COUNT.items():
            for name, array in shapes.render(count, split, size)._asdict().items():
                np.save(folder / f"{split}-{name}.npy", array)

    return make_folder_once(cache / f"shapes-v{shapes.VERSION}-{size}", fill)


def _folder(name: str) -> Path:
    """$MIMBENCH_DATA/<name>, with train/ and val/, a folder a class."""
    root = os.environ.get(DATA_ROOT)
    if not root:
        raise UserError(
            f"data.name: '{name}' is a folder of images: say in {DATA_ROOT} where data sets lie. Embedded: shapes."
        )
    folder = Path(root) / name
    if not (folder / "train").is_dir() or not (folder / "val").is_dir():
        there = [p.name for p in Path(root).iterdir() if p.is_dir()] if Path(root).is_dir() else []
        raise unknown(f"data.name ({DATA_ROOT}={root})", "data set with train/ and val/", name, ["shapes", *there])
    return folder


def _files(folder: Path) -> list[tuple[Path, str]]:
    suffixes = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
    found = []
    for group in sorted(p for p in folder.iterdir() if p.is_dir()):
        found += [(p, group.name) for p in sorted(group.rglob("*")) if p.suffix.lower() in suffixes]
    if not found:
        raise UserError(f"{folder}: holds no images in class folders.")
    return found


def _class_names(train: list[tuple[Path, str]], test: list[tuple[Path, str]]) -> list[str]:
    """The classes, as the folders in train/ are named; a test image of no such class could not be answered."""
    names = {name for _, name in train}
    for path, name in test:
        if name not in names:
            raise unknown(f"{path}: there are no training images of its class", "class", name, names)
    return sorted(names)


def _fingerprint_of(folder: Path, files: list[Path]) -> str:
    lines = [f"splits {FOLDER_SPLITS}", *(f"{p.relative_to(folder)} {p.stat().st_size}" for p in files)]
    return fingerprint(hashlib.sha256("\n".join(lines).encode()).hexdigest())


def _load_folder(config: DataConfig, split: str) -> Images:
    folder = _folder(config.name)
    files = train = _files(folder / "train")
    if split == "test":
        files = _files(folder / "val")
    names = _class_names(train, files)
    if split in ("labelled", "val"):
        held_out = [i % EVERY_NTH_HELD_OUT == 0 for i in range(len(files))]
        files = [f for f, held in zip(files, held_out, strict=True) if held == (split == "val")]
    # class after class on disk: `head` must not take the first classes only
    order = np.random.default_rng(derive("folder", split)).permutation(len(files))
    files = [files[i] for i in order]
    labels = np.array([names.index(name) for _, name in files], np.int64)
    return Images([p for p, _ in files], labels, len(names), config)
