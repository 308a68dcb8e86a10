"""Figures of the masks that iBOT's own loader draws: half of the images whole, the others with a share of 0.1 to 0.5.

Its code is not part of this repository. tests/golden/ibot_masks.json comes from

    git clone https://github.com/bytedance/ibot && git -C ibot checkout da316d82636a7a7356835ef224b13d5f3ace0489
    python tests/parts/ibot_figures.py ibot > tests/golden/ibot_masks.json
"""

import json
import random
import sys
from unittest import mock

import numpy as np
import torch
from blockwise_figures import figures

SIDES, DRAWS = (14, 8), 30_000


def _official(side):
    from loader import ImageFolderMask
    from torchvision.datasets import ImageFolder

    random.seed(side)
    loader = ImageFolderMask.__new__(ImageFolderMask)
    loader.psz, loader.pred_shape, loader.pred_start_epoch = 1, "block", 0
    loader.pred_ratio, loader.pred_ratio_var = [0.0, 0.3], [0.0, 0.2]
    loader.log_aspect_ratio = (float(np.log(0.3)), float(np.log(1 / 0.3)))
    with mock.patch.object(ImageFolder, "__getitem__", return_value=([torch.zeros(3, side, side)],)):
        return np.stack([loader[index][-1][0] for index in range(DRAWS)])


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    json.dump([{"side": side, "draws": DRAWS, **figures(_official(side), 0)} for side in SIDES], sys.stdout)
    print()
