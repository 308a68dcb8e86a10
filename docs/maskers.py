"""What each masker hides on a grid of 14 x 14 patches, and what is predicted, as a picture.

python docs/maskers.py docs/maskers.png
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from mimbench import registry
from mimbench.parts import PatchGrid
from mimbench.pretrain.masks import guided
from mimbench.report.colors import ACCENT, FAINT, INK, MUTED, PAPER
from mimbench.show.masks import example_masks, mask_colors

IMAGES, SIDE = 6, 14
SEED = 2  # with 0, five of six images are among those that iBOT leaves whole
# settings that recipes give, beside every masker's own
VARIANTS: dict[str, dict[str, Any]] = {
    "attention_guided, ratio 0.75 (MILAN)": {"type": "attention_guided", "ratio": 0.75},
    "blockwise, range, skip 0.5 (iBOT)": {"type": "blockwise", "range": [0.1, 0.5], "skip": 0.5},
    "random, ratio 0.75 (MAE)": {"type": "random", "ratio": 0.75},
    "random, ratio 0.6, cell 2 (SimMIM)": {"type": "random", "ratio": 0.6, "cell": 2},
    "inverse_block, predict 0.077 (CAPI)": {"type": "inverse_block", "predict": 0.077},
}


def shown() -> dict[str, dict[str, Any]]:
    """By title, the registered maskers as they are by default, and variants of some."""
    names = sorted(name for name, *_ in registry.listing("masker"))
    return dict(sorted(({name: {"type": name} for name in names} | VARIANTS).items()))


def drawn(spec: dict[str, Any]) -> np.ndarray:
    """(IMAGES, SIDE, SIDE, 3) colors: visible, masked, predicted; of a masker of blocks, each block in its own."""
    grid = PatchGrid(SIDE, SIDE, 16)
    masks = example_masks(spec, grid, IMAGES, SEED)
    return mask_colors(masks if masks.noise is None else guided(masks, attention()), grid)


def attention() -> torch.Tensor:
    """A teacher's, as it might be: it falls from the middle outwards."""
    place = torch.linspace(-1.5, 1.5, SIDE)
    return (-(place[:, None] ** 2) - place**2).flatten().softmax(0).expand(IMAGES, -1)


def main(target: Path) -> None:
    rows = shown()
    figure = Figure(figsize=(9, 0.25 + 1.05 * len(rows)), dpi=80, facecolor=PAPER)
    axes = figure.subplots(len(rows), IMAGES, squeeze=False, gridspec_kw={"wspace": 0.06, "hspace": 0.12})
    figure.subplots_adjust(left=0.31, right=0.995, top=1 - 0.3 / figure.get_figheight(), bottom=0.005)
    for row, (title, spec) in zip(axes, rows.items(), strict=True):
        row[0].text(-0.15, 0.5, title, ha="right", va="center", transform=row[0].transAxes, color=INK, fontsize=10)
        for axis, colors in zip(row, drawn(spec), strict=True):
            axis.set_axis_off()
            axis.pcolormesh(colors[::-1], edgecolors=PAPER, linewidth=0.6)
            axis.set_aspect("equal")
    named = {"visible": FAINT, "masked, not predicted": MUTED, "masked, predicted": INK, "visible, predicted": ACCENT}
    handles = [Patch(color=color, label=label) for label, color in named.items()]
    figure.legend(handles=handles, ncols=4, loc="upper right", fontsize=9, frameon=False, borderaxespad=0.2)
    figure.savefig(target, pil_kwargs={"optimize": True})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
