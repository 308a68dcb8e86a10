"""A third party's parts in a plan: what conforms to mimbench.parts works, and an error names what is missing."""

from __future__ import annotations

import sys
import textwrap

import pytest
from grids import error_of, written

from mimbench.config.grid import load_grid
from mimbench.config.parts import CONTRACT, OPTIONAL
from mimbench.plan.graph import make_plan
from mimbench.registry import REGISTRIES

MODULE = """
import torch
from mimbench.parts import Decoder, Tokenizer

class MeanColor(Tokenizer):
    version = 1
    target = "features"
    def width(self, grid):
        return 3
    def forward(self, batch, grid):
        raw = batch["raw"].unflatten(3, (grid.columns, -1)).unflatten(2, (grid.rows, -1))
        return raw.mean((3, 5)).flatten(2).mT

class Every2nd:
    version = 1
    constant_count = True
    def __call__(self, batch, grid, rng):
        return (torch.arange(grid[0] * grid[1]) % 2 == 0).expand(batch, -1).clone()

class Distance:
    version = 1
    expects = "features"
    def __call__(self, prediction, target):
        return (prediction - target).abs().mean(-1)

class Head(Decoder):
    version = 1
    restores_grid = False
    def build(self, dim, width, grid):
        self.project = torch.nn.Linear(dim, width)
    def forward(self, encoded, masks):
        return self.project(encoded.patches.flatten(0, 1)[masks.predicted])
"""
CLASSES = {"tokenizer": "MeanColor", "masker": "Every2nd", "loss": "Distance", "decoder": "Head"}
DEFAULTS = {"tokenizer": "pixels", "masker": "random", "loss": "mse", "decoder": "linear"}


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a third party's module, and forgets it afterwards."""

    def write(text):
        (tmp_path / "third_party.py").write_text(textwrap.dedent(text))
        sys.modules.pop("third_party", None)

    monkeypatch.syspath_prepend(str(tmp_path))
    write(MODULE)
    yield write
    sys.modules.pop("third_party", None)


def row(**parts):
    return [{"name": "a", **DEFAULTS, **parts}]


def test_minimal_parts_of_every_kind_can_be_planned(module, tmp_path):
    rows = row(**{kind: f"third_party.{name}" for kind, name in CLASSES.items()})
    plan = make_plan(load_grid(written(tmp_path, rows=rows)))
    (recipe,) = [run.spec["recipe"] for run in plan.runs.values() if run.kind == "pretrain"]
    for kind in CLASSES:
        assert recipe[kind].pop("origin").startswith("source:")
        assert recipe[kind] == {"type": f"third_party.{CLASSES[kind]}", "version": 1}


def test_what_a_part_offers_may_stand_on_the_instance(module, tmp_path):
    module(MODULE + """
class Own:
    def __init__(self, share: float = 0.5) -> None:
        self.version, self.constant_count = 2, share == 0.5
    def __call__(self, batch, grid, rng):
        return torch.ones(batch, grid[0] * grid[1], dtype=torch.bool)
""")  # fmt: skip
    recipe = load_grid(written(tmp_path, rows=row(masker="third_party.Own"))).rows[0].recipe
    assert (recipe.masker["version"], recipe.masker["share"]) == (2, 0.5)


class Part:
    """Everything that any kind of part offers; the tests take one thing away, or make it wrong."""

    version, target, views, trained, expects = 1, "features", ("raw",), False, "features"
    constant_count, predict, restores_grid = True, "masked", False

    def width(self, grid): ...
    def build(self, dim, width, grid): ...
    def __call__(self, *_): ...


def without(name):
    return type(
        "Broken", (), {key: value for key, value in vars(Part).items() if key not in (name, "__dict__", "__weakref__")}
    )


MISSING = [(kind, name) for kind, names in CONTRACT.items() for name in names if name not in OPTIONAL]


@pytest.mark.parametrize("door", ["registered", "dotted path"])
@pytest.mark.parametrize(("kind", "name"), MISSING)
def test_a_part_that_misses_something_is_refused(tmp_path, monkeypatch, kind, name, door):
    broken = without(name)
    if door == "registered":
        monkeypatch.setitem(REGISTRIES[kind].module_dict, "broken", broken)
        path = "broken"
    else:
        monkeypatch.setattr(sys.modules[__name__], "Broken", broken, raising=False)
        path = f"{__name__}.Broken"
    message = error_of(tmp_path, rows=row(**{kind: path}))
    assert f"rows.0.{kind}.type: '{path}' is not a valid {kind}: missing {name} (see mimbench.parts)" in message


@pytest.mark.parametrize(
    ("kind", "name", "value", "words"),
    [
        ("masker", "constant_count", "yes", "constant_count: must be true or false"),
        ("masker", "predict", "some", "predict: 'some' is not allowed. Allowed: masked, all"),
        ("loss", "over", "all", "which positions are predicted is the masker's `predict`"),
        ("loss", "expects", "pixels", "expects: 'pixels' is not allowed. Allowed: codes, features"),
        ("tokenizer", "version", "one", "version: must be an integer"),
        ("tokenizer", "width", 3, "width must be a method"),
        ("decoder", "restores_grid", None, "restores_grid: must be true or false"),
    ],
)
def test_a_part_that_declares_something_wrong_is_refused(tmp_path, monkeypatch, kind, name, value, words):
    monkeypatch.setitem(REGISTRIES[kind].module_dict, "broken", type("Broken", (Part,), {name: value}))
    assert f"not a valid {kind}: {words}" in error_of(tmp_path, rows=row(**{kind: "broken"}))


def test_a_class_whose_arguments_cannot_be_read_is_refused(tmp_path):
    assert "its arguments cannot be read" in error_of(tmp_path, rows=row(masker="builtins.dict"))
