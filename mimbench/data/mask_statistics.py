"""Which labels occur in the masks of a segmentation folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from mimbench.data.decoding import failed, size_of

NO_LABEL = 255  # as 0: pixels that no class is given to


def mask_fault(path: Path, classes: int) -> str | None:
    """What is wrong with a mask."""
    labels = _labels(path)
    if labels is None:
        return "several channels, as of a colored image; a mask has one, of the numbers of the classes."
    beyond = labels[(labels > classes) & (labels != NO_LABEL)]
    if not beyond.size:
        return None
    return f"label {beyond.max()}, and {classes} classes are named: labels are 1 to {classes}, and 0 for none."


def size_fault(mask: Path, image: Path) -> str | None:
    """How a mask differs in size from its image, turned as its camera noted."""
    wide, high = size_of(image)
    if (found := size_of(mask)) == (wide, high):
        return None
    return f"{found[0]} x {found[1]} pixels, and its image has {wide} x {high}."


def mask_statistics(masks: Iterable[Path], classes: int) -> Iterator[tuple[str, bool]]:
    """Sentences, and whether what they say is in order."""
    pixels = np.zeros(NO_LABEL + 1, np.int64)
    beyond, colored = [], []
    for path in masks:
        labels = _labels(path)
        if labels is None:
            colored.append(path.name)
            continue
        if ((labels > classes) & (labels != NO_LABEL)).any():
            beyond.append(path.name)
        pixels += np.bincount(labels.ravel().clip(0, NO_LABEL), minlength=NO_LABEL + 1)
    present = int((pixels[1 : classes + 1] > 0).sum())
    yield (
        f"labels: {present} of {classes} classes occur; {100 * pixels[0] / max(1, pixels.sum()):.1f} % of the pixels have none",
        True,
    )
    if colored:
        yield f"{len(colored)} masks have several channels, not one of labels: {', '.join(colored[:10])}", False
    if beyond:
        yield f"{len(beyond)} masks have labels above {classes}, the number of classes: {', '.join(beyond[:10])}", False
    if pixels[classes // 2 + 1 : classes + 1].sum() == 0 and classes > 2:
        yield (f"warning: no label above {classes // 2} occurs, and {classes} classes are named: are these the right names? "
               "Write classes.json."), True  # fmt: skip


def _labels(path: Path) -> np.ndarray | None:
    """As mmsegmentation reads them, by Pillow; None for more than one channel."""
    try:
        with Image.open(path) as mask:
            found = np.asarray(mask)
    except Exception as error:
        raise failed(path, error) from error
    return found.astype(np.int64) if found.ndim == 2 else None
