"""Figures by which two block-wise maskers are compared, and those of BEiT's own generator.

Its code is not part of this repository. tests/golden/blockwise_official.json comes from

    git clone https://github.com/microsoft/unilm && git -C unilm checkout 768a3c873f598bb9b4d4dfb9267b099e35f8fe56
    python tests/parts/blockwise_figures.py unilm/beit/masking_generator.py > tests/golden/blockwise_official.json
"""

import hashlib
import importlib.util
import json
import random
import sys
from pathlib import Path

import numpy as np

CASES = [  # BEiT's and data2vec's settings, those of the built-in data's scale, and a grid that is not square
    {"size": [14, 14], "count": 75, "min_block": 16, "draws": 100_000, "seed": 0},
    {"size": [14, 14], "count": 120, "min_block": 16, "draws": 30_000, "seed": 1},
    {"size": [8, 8], "count": 26, "min_block": 16, "draws": 50_000, "seed": 2},
    {"size": [6, 10], "count": 24, "min_block": 4, "draws": 50_000, "seed": 3},
]


def figures(masks, count):
    """Mean and deviation over draws of what masks (draws, rows, columns) look like, and quantiles of their count."""
    counts = masks.sum((1, 2))
    padded = np.pad(masks, ((0, 0), (1, 1), (1, 1))).astype(np.int8)
    neighbors = padded[:, 2:, 1:-1] + padded[:, :-2, 1:-1] + padded[:, 1:-1, 2:] + padded[:, 1:-1, :-2]
    per_draw = {
        "count": counts,
        "reaches_count": counts == count,
        "edges_along_rows": (masks[:, :, 1:] != masks[:, :, :-1]).sum((1, 2)),
        "edges_along_columns": (masks[:, 1:] != masks[:, :-1]).sum((1, 2)),
        "runs_in_rows": (np.diff(padded[:, 1:-1], axis=2) == 1).sum((1, 2)),
        "masked_neighbors_per_patch": (neighbors * masks).sum((1, 2)) / np.maximum(counts, 1),
        "lonely_patches": (masks & (neighbors == 0)).sum((1, 2)),
        "has_a_whole_row": masks.all(2).any(1),
        "has_a_whole_column": masks.all(1).any(1),
    }
    return {
        "mean_and_deviation": {k: [round(float(v.mean()), 5), round(float(v.std()), 5)] for k, v in per_draw.items()},
        "minimum": int(counts.min()),
        "quantiles": {str(q): float(np.quantile(counts, q)) for q in (0.01, 0.05, 0.1, 0.25, 0.5)},
        "position_map": masks.mean(0).round(4).tolist(),
    }


def _official(path):
    np.int = int  # the generator predates numpy 1.24
    spec = importlib.util.spec_from_file_location("official", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for case in CASES:
        random.seed(case["seed"])
        generator = module.MaskingGenerator(
            tuple(case["size"]), num_masking_patches=case["count"], min_num_patches=case["min_block"]
        )
        masks = np.stack([generator() for _ in range(case["draws"])]).astype(bool)
        yield case | figures(masks, case["count"])


if __name__ == "__main__":
    source = {
        "repository": "https://github.com/microsoft/unilm",
        "commit": "768a3c873f598bb9b4d4dfb9267b099e35f8fe56",
        "file": "beit/masking_generator.py",
        "sha256": hashlib.sha256(Path(sys.argv[1]).read_bytes()).hexdigest(),
        "commands": __doc__.split("comes from")[1].split("\n\n")[1].strip().split("\n    "),
    }
    json.dump({"source": source, "cases": list(_official(sys.argv[1]))}, sys.stdout, indent=1)
    print()
