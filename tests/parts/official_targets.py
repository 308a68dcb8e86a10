"""Figures of official targets and masks: MaskFeat's HOG, iBOT's loss of patches with its center, sizes of I-JEPA's blocks.

Their code is not part of this repository. tests/golden/official_targets.json comes from

    git clone https://github.com/facebookresearch/SlowFast && git -C SlowFast checkout 287ec0076846560f44a9327e931a5a2360240533
    git clone https://github.com/bytedance/ibot && git -C ibot checkout da316d82636a7a7356835ef224b13d5f3ace0489
    git clone https://github.com/facebookresearch/ijepa && git -C ijepa checkout 52c1ae95d05f743e000e8f10a1f3a79b10cff048
    python tests/parts/official_targets.py SlowFast ibot ijepa > tests/golden/official_targets.json
"""

import ast
import json
import math
import sys
from multiprocessing import Value
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from official_figures import written_down
from torch import nn

CODES, GLOBAL, LOCAL = 7, 2, 1  # prototypes, views
STEPS, BLOCKS = 3, 60


def read_class(file, name):
    """That class alone: the files import what is not needed here."""
    tree = ast.parse(Path(file).read_text())
    tree.body = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    found = {
        "torch": torch,
        "nn": nn,
        "F": F,
        "np": np,
        "math": math,
        "dist": mock.Mock(get_world_size=lambda: 1),
        "Value": Value,
    }
    exec(compile(tree, str(file), "exec"), found)
    return found[name]


def images():
    return written_down("hog", (1, 3, 32, 32))


def step(index):
    """Scores of four patches of three images in two views, and the hidden ones: two of each image."""
    teacher, student = (written_down(f"{who} {index}", (GLOBAL * 3, 4, CODES)) for who in ("teacher", "student"))
    hidden = torch.tensor([[1, 0, 1, 0], [0, 1, 1, 0], [1, 0, 0, 1]] * GLOBAL, dtype=torch.bool)
    return teacher, student, hidden


def hog(folder):
    return read_class(folder / "slowfast/models/operators.py", "HOGLayerC")(9, 8)(images()).tolist()


def ibot(folder):
    loss = read_class(folder / "main_ibot.py", "iBOTLoss")(CODES, CODES, GLOBAL, LOCAL, 0.04, 0.04, 0.07, 0.07, 0, 1)
    found = []
    for index in range(STEPS):
        teacher, student, hidden = step(index)
        masks = [mask.view(-1, 2, 2) for mask in hidden.chunk(GLOBAL)]
        given = (student.mean(1), student), (teacher.mean(1), teacher), student[:3].mean(1)
        value = loss(*given, masks, 0)["patch"].item()
        found.append({"loss": value, "center": loss.center2.flatten().tolist()})
    return found


def ijepa(folder):
    """Height and width of the blocks to predict, by side of the grid, for a seed each."""
    sampler = read_class(folder / "src/masks/multiblock.py", "MaskCollator")
    seeds = lambda: (torch.Generator().manual_seed(seed) for seed in range(BLOCKS))
    return {side: [sampler((16 * side, 16 * side))._sample_block_size(seed, (0.15, 0.2), (0.75, 1.5)) for seed in seeds()]
            for side in (8, 14)}  # fmt: skip


if __name__ == "__main__":
    folders = map(Path, sys.argv[1:])
    with torch.no_grad():
        print(
            json.dumps(
                {name: figures(next(folders)) for name, figures in (("hog", hog), ("ibot", ibot), ("ijepa", ijepa))}
            )
        )
