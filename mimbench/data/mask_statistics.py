"""Which labels occur in the masks of a segmentation folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image


def mask_statistics(masks: Iterable[Path], classes: int) -> Iterator[tuple[str, bool]]:
    """Sentences, and whether what they say is in order."""
    pixels, beyond = np.zeros(256, np.int64), []
    for path in masks:
        counted = np.bincount(_labels(path).ravel(), minlength=256)[:256]
        pixels += counted
        if counted[classes + 1 : 255].any():
            beyond.append(path.name)
    present = int((pixels[1 : classes + 1] > 0).sum())
    yield (
        f"labels: {present} of {classes} classes occur; {100 * pixels[0] / max(1, pixels.sum()):.1f} % of the pixels have none",
        True,
    )
    if beyond:
        yield f"{len(beyond)} masks have labels above {classes}, the number of classes: {', '.join(beyond[:10])}", False
    if pixels[classes // 2 + 1 : classes + 1].sum() == 0 and classes > 2:
        yield (f"warning: no label above {classes // 2} occurs, and {classes} classes are named: are these the right names? "
               "Write classes.json."), True  # fmt: skip


def _labels(path: Path) -> np.ndarray:
    with Image.open(path) as mask:
        return np.asarray(mask).astype(np.int64) if mask.mode in ("L", "P") else np.asarray(mask.convert("L"), np.int64)
