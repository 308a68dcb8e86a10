"""Small outputs of every part, so that its numbers cannot move unless its `version` is raised with them.

After a change that is meant to move them: raise the part's version, then `python tests/parts/test_golden_parts.py`.
"""

import json
from pathlib import Path
from unittest import mock

import pytest
import torch

from mimbench import registry
from mimbench.parts import Encoded, Masks, PatchGrid
from mimbench.registry import REGISTRIES

GOLDEN = Path(__file__).parents[1] / "golden" / "parts.json"
CASES = {
    "masker": [
        {"type": "blockwise"},
        {"type": "blockwise", "count": 30, "min_block": 4, "aspect": 0.5, "exact": True},
        {"type": "random"},
        {"type": "random", "ratio": 0.6, "cell": 2},
        {"type": "none"},
    ],
    "loss": [
        {"type": "cross_entropy"},
        {"type": "cross_entropy", "label_smoothing": 0.1},
        {"type": "mse"},
        {"type": "l1"},
        {"type": "smooth_l1"},
    ],
    "tokenizer": [
        {"type": "pixels"},
        {"type": "pixels", "normalize": True},
        {"type": "dvae", "vocabulary": 16, "hidden": 8},
    ],
    "decoder": [{"type": "linear"}, {"type": "transformer", "dim": 8, "depth": 2, "heads": 2}],
}
FLAT = [pytest.param(kind, spec, id=f"{kind}-{json.dumps(spec)}") for kind, specs in CASES.items() for spec in specs]


def wave(*shape, pace=1.0):
    """Numbers between -1 and 1 that are the same on every machine."""
    count = torch.Size(shape).numel()
    return torch.sin(pace * torch.arange(1, count + 1, dtype=torch.float64)).float().view(shape)


def fill(module):
    with torch.no_grad():
        for index, parameter in enumerate(module.parameters()):
            scale = 2.5 * parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.1
            parameter.copy_(scale * wave(*parameter.shape, pace=1 + 0.37 * index))


def masker_output(masker):
    drawn = masker(3, (8, 8), torch.Generator().manual_seed(0))
    return ["".join("#" if patch else "." for patch in mask) for mask in drawn.tolist()]


def loss_output(loss):
    target = torch.tensor([0, 3, 6, 2]) if loss.expects == "codes" else wave(4, 7, pace=0.7)
    return loss(2 * wave(4, 7), target).tolist()


def tokenizer_output(tokenizer):
    grid = PatchGrid(2, 3, 8)
    images = {"raw": 0.5 + 0.5 * wave(2, 3, 16, 24, pace=1.7)}
    if not tokenizer.trained:
        return tokenizer(images, grid)[:, :, ::37].flatten().tolist()
    tokenizer.build(grid)
    fill(tokenizer)
    # the noise of the relaxation is drawn differently by different builds of torch
    with mock.patch.object(torch.Tensor, "exponential_", lambda self: self.fill_(0.5)):
        losses = [tokenizer.training_loss(images, progress)[0].item() for progress in (0.0, 0.5, 1.0)]
    figures = tokenizer.quality(images, grid)
    return tokenizer(images, grid).flatten().tolist() + losses + [v for v in figures.values() if isinstance(v, float)]


def decoder_output(decoder):
    decoder.build(4, 3, PatchGrid(2, 3, 8))
    fill(decoder)
    hidden = torch.tensor([[1, 0, 0, 1, 1, 0], [0, 1, 1, 0, 1, 0]], dtype=torch.bool)
    kept = (~hidden).nonzero()[:, 1].view(2, -1) if decoder.restores_grid else None
    predicted = hidden.flatten().nonzero().squeeze(1)
    encoded = Encoded(wave(2, 3 if decoder.restores_grid else 6, 4), wave(2, 4, pace=3), kept, {})
    return decoder(encoded, Masks(hidden, predicted, kept, 6)).flatten().tolist()


def output(kind, spec):
    values = globals()[f"{kind}_output"](registry.build(kind, spec))
    return [v if isinstance(v, str) else round(v, 5) for v in values]


def entry(kind, spec):
    return {"kind": kind, "spec": spec, "version": REGISTRIES[kind].get(spec["type"]).version}


@pytest.mark.parametrize(("kind", "spec"), FLAT)
def test_numbers_of_a_part_move_only_with_its_version(kind, spec):
    golden = {json.dumps([g["kind"], g["spec"]]): g for g in json.loads(GOLDEN.read_text())}
    found = golden[json.dumps([kind, spec])]
    assert registry.part_class(kind, spec["type"], "").version == found["version"], "run this file to renew the figures"
    ours = output(kind, spec)
    assert len(ours) == len(found["output"])
    for our, value in zip(ours, found["output"], strict=True):
        assert our == (value if isinstance(value, str) else pytest.approx(value, abs=1e-4, rel=1e-4))


def test_every_part_has_golden_outputs():
    registry.load_plugins()
    for kind, found in REGISTRIES.items():
        ours = {k for k, cls in found.module_dict.items() if cls.__module__.startswith("mimbench.registries.")}
        assert ours == {spec["type"] for spec in CASES[kind]}


if __name__ == "__main__":
    registry.load_plugins()
    entries = [entry(kind, spec) | {"output": output(kind, spec)} for kind, specs in CASES.items() for spec in specs]
    GOLDEN.write_text("[\n" + ",\n".join(json.dumps(e) for e in entries) + "\n]\n")
