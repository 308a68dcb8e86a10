"""Small outputs of every part, so that its numbers cannot move unless its `version` is raised with them.

After a change that is meant to move them: raise the part's version, then `python tests/parts/test_golden_parts.py`.
"""

import json
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.nn.functional as F

from mimbench import registry
from mimbench.parts import Encoded, Masks, PatchGrid, Taught
from mimbench.registry import REGISTRIES
from mimbench.testing.inputs import LinearTeacher

GOLDEN = Path(__file__).parents[1] / "golden" / "parts.json"
GRID = PatchGrid(2, 3, 8)
CASES = {
    "masker": [
        {"type": "blockwise"},
        {"type": "blockwise", "count": 30, "min_block": 4, "aspect": 0.5, "exact": True},
        {"type": "blockwise", "min_block": 4, "range": [0.1, 0.5], "skip": 0.5},
        {"type": "random"},
        {"type": "random", "ratio": 0.6, "cell": 2},
        {"type": "none"},
        {"type": "attention_guided"},
        {"type": "inverse_block"},
        {"type": "inverse_block", "ratio": 0.5, "aspect": 0.2},
        {"type": "multiblock", "min_keep": 4},
        {"type": "multiblock", "targets": 2, "scale": [0.05, 0.1], "aspect": [0.5, 0.6], "context": [0.3, 0.5]},
    ],
    "loss": [
        {"type": "cross_entropy"},
        {"type": "cross_entropy", "label_smoothing": 0.1},
        {"type": "mse"},
        {"type": "l1"},
        {"type": "smooth_l1"},
        {"type": "cosine"},
        {"type": "soft_cross_entropy"},
        {"type": "nt_xent", "temperature": 0.5},
        {"type": "info_nce", "temperature": 0.5},
        {"type": "vicreg"},
        {"type": "koleo"},
    ],
    "tokenizer": [
        {"type": "pixels"},
        {"type": "pixels", "normalize": True},
        {"type": "dvae", "vocabulary": 16, "hidden": 8},
        {"type": "dvae", "vocabulary": 16, "hidden": 8, "perceptual": 0.5},
        {"type": "vqkd", "vocabulary": 6, "code_dim": 3, "dim": 8, "depth": 1, "heads": 2, "decoder_depth": 1},
        {"type": "palette", "colors": 4},
        {"type": "hog"},
        {"type": "labels", "classes": 10},
        {"type": "latent"},
        {"type": "latent", "layers": 2, "normalize_mean": True},
        {"type": "latent", "norm": False},
        {"type": "self_distillation", "prototypes": 5, "temperature": 0.9, "start": 0.4, "warmup": 0.75},
        {"type": "self_distillation", "prototypes": 5, "temperature": 0.9, "start": 0.9, "centering": "sinkhorn"},
        {"type": "clusters", "clusters": 5, "temperature": 0.7},
        {"type": "twin"},
        {"type": "projection", "dim": 5},
    ],
    "decoder": [
        {"type": "linear"},
        {"type": "transformer", "dim": 8, "depth": 2, "heads": 2},
        {"type": "linear", "norm": True},
        {"type": "aggregated", "layer": 2, "depth": 1, "heads": 2},
        {"type": "cross_attention", "depth": 2, "heads": 2},
        {"type": "cross_attention", "depth": 1, "heads": 2, "normalized_head": True},
        {"type": "predictor", "dim": 8, "depth": 2, "heads": 2},
        {"type": "projector", "hidden": 8},
        {"type": "projector", "hidden": 8, "layers": 3, "last_norm": True},
        {"type": "projector", "hidden": 8, "layers": 3, "last_norm": True, "predictor": 2},
        {"type": "prototypes", "hidden": 8, "bottleneck": 4},
        {"type": "regressor", "depth": 2, "heads": 2},
        {"type": "identity"},
        {"type": "blocks", "depth": 2, "heads": 2},
    ],
}
FROM_FILES = {"dalle"}  # what they compute is in a file, see test_dalle.py
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
    rng = torch.Generator().manual_seed(0)
    drawn, *blocks = masker.blocks(3, (8, 8), rng) if hasattr(masker, "blocks") else (masker(3, (8, 8), rng),)
    masks = ["".join("#" if patch else "." for patch in mask) for mask in drawn.tolist()]
    return masks + [" ".join(map(str, block)) for found in blocks for block in found.flatten(0, 1).tolist()]


def loss_output(loss):
    target = torch.tensor([0, 3, 6, 2]) if loss.expects == "codes" else wave(4, 7, pace=0.7)
    target = target.softmax(-1) if loss.expects == "distribution" else target
    mine = [slice(1, 4)] if getattr(loss, "whole_batch", False) else []
    return loss(2 * wave(4, 7), target, *mine).tolist()


def tokenizer_output(tokenizer):
    if tokenizer.reads == "student":
        return [tokenizer.width(GRID)]
    if tokenizer.reads == "teacher":
        return teacher_output(tokenizer)
    raw = 0.5 + 0.5 * wave(2, 3, 16, 24, pace=1.7)
    views = {"raw": raw, "image": raw * wave(2, 3, 16, 24, pace=0.037), "label": torch.tensor([3, 1])}
    if not tokenizer.trained:
        targets = tokenizer(views, GRID)
        return (targets[:, :, ::37] if targets.dim() == 3 else targets).flatten().tolist()
    tokenizer.build(GRID)
    if tokenizer.needs_teacher:
        tokenizer.learn_from(LinearTeacher(GRID, 4, 3))
    fill(tokenizer)
    if tokenizer.at_once:
        tokenizer.find(raw)
    # the noise of the relaxation is drawn differently by different builds of torch
    with mock.patch.object(torch.Tensor, "exponential_", lambda self: self.fill_(0.5)):
        losses = [] if tokenizer.at_once else [trained(tokenizer, views, progress) for progress in (0.0, 0.5, 1.0)]
    figures = tokenizer.quality(views, GRID)
    return tokenizer(views, GRID).flatten().tolist() + losses + [v for v in figures.values() if isinstance(v, float)]


def trained(tokenizer, views, progress):
    loss, _ = tokenizer.training_loss(views, progress)
    tokenizer.after_step(1)
    return loss.item()


def teacher_output(tokenizer):
    """Targets at each level in two steps, and the tokenizer's own loss."""
    tokenizer.build(4, 3)
    fill(tokenizer)
    taps = {block: wave(2, 7, 4, pace=1.1 + 0.3 * block) for block in range(3)}
    rows = lambda x: x @ wave(4, 5, pace=0.8)
    head = mock.Mock(rows=rows, taught=lambda encoded, masks: rows(encoded.cls))
    taught = Taught(Encoded(wave(2, 6, 4), wave(2, 4, pace=3), None, taps), head, 0.5)
    values = []
    for level in (*tokenizer.levels, *tokenizer.levels):
        target = tokenizer(taught, None, level)
        values += target.flatten()[::7].tolist()
        loss = tokenizer.own_loss(taught, target)
        values += [] if loss is None else [loss.item()]
        tokenizer.after_step(1)
    return values


def decoder_output(decoder):
    last = registry.build("decoder", {"type": "linear"})
    last.build(4, 3, GRID)
    decoder.build(4, 4 if decoder.keeps_width else 3, GRID, last=last)
    fill(decoder)
    if "patch" not in decoder.levels:
        encoded = Encoded(wave(5, 6, 4), wave(5, 4, pace=3), None, {})
        return decoder(encoded, None).flatten().tolist()
    hidden = torch.tensor([[1, 0, 0, 1, 1, 0], [0, 1, 1, 0, 1, 0]], dtype=torch.bool)
    kept = (~hidden).nonzero()[:, 1].view(2, -1) if decoder.restores_grid else None
    predicted, blocks = hidden.flatten().nonzero().squeeze(1), hidden.nonzero()[:, 1].view(2, 3, 1)
    taps = {block: wave(2, 7, 4, pace=1.1 + 0.3 * block) for block in range(3)}
    patches, norm = wave(2, 3 if decoder.restores_grid else 6, 4), lambda x: F.layer_norm(x, x.shape[-1:])
    encoded = Encoded(patches, wave(2, 4, pace=3), kept, taps, norm)
    return decoder(encoded, Masks(hidden, predicted, kept, 6, blocks)).flatten().tolist()


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
        assert ours - FROM_FILES == {spec["type"] for spec in CASES[kind]}


if __name__ == "__main__":
    registry.load_plugins()
    entries = [entry(kind, spec) | {"output": output(kind, spec)} for kind, specs in CASES.items() for spec in specs]
    GOLDEN.write_text("[\n" + ",\n".join(json.dumps(e) for e in entries) + "\n]\n")
