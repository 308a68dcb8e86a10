"""HOG, iBOT's center and I-JEPA's blocks against figures of the official code (see official_targets.py)."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from official_targets import STEPS, images, step

from mimbench import registry
from mimbench.parts import Encoded, Masks, PatchGrid, Taught

OFFICIAL = json.loads((Path(__file__).parents[1] / "golden" / "official_targets.json").read_text())
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def test_hog_is_that_of_the_official_maskfeat():
    found = registry.build("tokenizer", {"type": "hog"})({"image": images()}, PatchGrid(2, 2, 16))
    cells = found.view(2, 2, 3, 9, 2, 2).permute(2, 3, 0, 4, 1, 5).reshape(1, 3, 9, 4, 4)
    torch.testing.assert_close(cells, torch.tensor(OFFICIAL["hog"]), **CLOSE)


def test_the_targets_of_patches_and_their_center_are_those_of_the_official_ibot():
    """The center is that of all patches, not of the hidden ones."""
    tokenizer = registry.build(
        "tokenizer", {"type": "self_distillation", "prototypes": 7, "temperature": 0.07, "start": 0.07}
    )
    loss, head = registry.build("loss", {"type": "soft_cross_entropy"}), SimpleNamespace(rows=lambda x: x)
    for index in range(STEPS):
        teacher, student, hidden = step(index)
        predicted = hidden.flatten().nonzero().squeeze(1)
        masks = Masks(hidden, predicted, None, len(predicted))
        targets = tokenizer(Taught(Encoded(teacher, teacher[:, 0], None, {}), head, 0.5), masks, "patch")
        tokenizer.after_step(1)
        expected = OFFICIAL["ibot"][index]
        assert loss(student[hidden], targets[hidden]).mean().item() == pytest.approx(expected["loss"], rel=1e-5)
        torch.testing.assert_close(tokenizer.center, torch.tensor(expected["center"]), **CLOSE)


@pytest.mark.parametrize("side", ["8", "14"])
def test_blocks_to_predict_have_the_sizes_of_the_official_ijepa(side):
    masker, width = registry.build("masker", {"type": "multiblock", "min_keep": 1}), int(side)
    for seed, size in enumerate(OFFICIAL["ijepa"][side]):
        _, blocks = masker.blocks(1, (width, width), torch.Generator().manual_seed(seed))
        rows, columns = blocks[0, 0] // width, blocks[0, 0] % width
        assert [int(x.max() - x.min() + 1) for x in (rows, columns)] == size
