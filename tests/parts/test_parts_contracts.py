import inspect
from pathlib import Path

import pytest
import torch

from mimbench import registry
from mimbench.config.parts import resolve
from mimbench.parts import Tokenizer, TrainedTokenizer
from mimbench.registry import REGISTRIES
from mimbench.testing import CHECKS, check_decoder, check_loss, check_masker, check_tokenizer

registry.load_plugins()
PARTS = [
    pytest.param(kind, name, id=f"{kind}-{name}")
    for kind, found in REGISTRIES.items()
    for name, cls in sorted(found.module_dict.items())
    if cls.__module__.startswith("mimbench.registries.")
]
SMALL = {"dvae": {"vocabulary": 32, "hidden": 8}, "transformer": {"dim": 16, "depth": 2, "heads": 2}}  # for speed


@pytest.mark.parametrize(("kind", "name"), PARTS)
def test_every_part_keeps_its_contract(kind, name):
    CHECKS[kind](registry.build(kind, {"type": name, **SMALL.get(name, {})}))


@pytest.mark.parametrize("spec", [{"type": "blockwise", "exact": True}, {"type": "random", "cell": 2}])
def test_masker_variants_keep_the_contract(spec):
    check_masker(registry.build("masker", spec))


@pytest.mark.parametrize(("kind", "name"), PARTS)
def test_a_part_has_the_name_of_its_file(kind, name):
    path = Path(inspect.getsourcefile(REGISTRIES[kind].get(name)))
    assert path.stem == name
    assert path.parent.name == {"loss": "losses"}.get(kind, f"{kind}s")


def test_every_file_registers_one_part():
    files = [p for p in (Path(__file__).parents[2] / "registries").glob("*/*.py") if p.stem != "__init__"]
    assert len(files) == len(PARTS)


@pytest.mark.parametrize(("kind", "name"), PARTS)
def test_a_part_resolves_to_its_defaults_and_is_listed(kind, name):
    spec = resolve(kind, name, "row")
    assert spec["version"] >= 1
    assert spec == resolve(kind, spec, "row")  # what stands in a run's folder reads back as itself
    assert any(row[0] == name and row[3] for row in registry.listing(kind))


class Masker:
    """A masker to break."""

    version = 1
    constant_count = True

    def __init__(self, fault: str = "") -> None:
        self.fault = fault

    def __call__(self, batch, grid, rng):
        noise = torch.rand(batch, grid[0] * grid[1], generator=None if self.fault == "global" else rng)
        if self.fault == "shape":
            noise = noise[:, 1:]
        mask = noise < 0.5 if self.fault == "count" else noise.argsort(1) < 5
        return mask.float() if self.fault == "type" else mask


class UnversionedMasker(Masker):
    """Without a version."""

    version = None


class SilentMasker(Masker):
    pass


class UnannotatedMasker(Masker):
    """Its argument has no type."""

    def __init__(self, fault=""):
        self.fault = fault


class Loss:
    """A loss to break."""

    version, expects = 1, "features"

    def __init__(self, fault: str = "") -> None:
        self.fault = fault

    def __call__(self, prediction, target):
        values = (prediction - target).square().mean(-1)
        if self.fault == "mean":
            return values.mean()
        if self.fault == "mixed":
            return values / values.sum().clamp_min(1e-6)
        return values.detach() + 0 * prediction.sum(-1) if self.fault == "gradient" else values


class Teacher(Tokenizer):
    """A tokenizer to break."""

    version, target = 1, "features"

    def __init__(self, fault: str = "") -> None:
        super().__init__()
        self.fault, self.scale = fault, torch.nn.Parameter(torch.ones(()))

    def width(self, grid):
        return 3

    def forward(self, batch, grid):
        raw = batch["raw"].unflatten(3, (grid.columns, -1)).unflatten(2, (grid.rows, -1))
        features = raw.mean((3, 5)).flatten(2).mT * self.scale.detach()
        if self.fault == "neighbors":
            features = features - features.mean(0)
        if self.fault == "noise":
            features = features + torch.rand(())
        if self.fault == "shape":
            features = features.mT
        return features * self.scale if self.fault == "gradient" else features


class Decoder(torch.nn.Module):
    """A decoder to break."""

    version, restores_grid = 1, False

    def __init__(self, fault: str = "") -> None:
        super().__init__()
        self.fault = fault

    def build(self, dim, width, grid):
        self.project = torch.nn.Linear(dim, width)
        self.idle = torch.nn.Linear(2, 2) if self.fault == "idle" else None

    def forward(self, encoded, masks):
        order = masks.predicted.sort().values if self.fault == "order" else masks.predicted
        prediction = self.project(encoded.patches.flatten(0, 1)[order])
        return prediction[1:] if self.fault == "shape" else prediction


@pytest.mark.parametrize("check", [(check_masker, Masker), (check_loss, Loss), (check_tokenizer, Teacher),
                                   (check_decoder, Decoder)])  # fmt: skip
def test_a_third_party_part_that_keeps_the_contract_passes(check):
    check[0](check[1]())


@pytest.mark.parametrize(
    ("check", "part", "sentence"),
    [
        (check_masker, Masker("global"), "Masker: must draw from the given generator"),
        (check_masker, Masker("shape"), r"masks must have the shape \(16, 24\), not \(16, 23\)"),
        (check_masker, Masker("count"), "has constant_count, but masks"),
        (check_masker, Masker("type"), "masks must be a bool tensor"),
        (check_masker, UnversionedMasker(), "version: must be an integer"),
        (check_masker, SilentMasker(), "needs a docstring"),
        (check_masker, UnannotatedMasker(), "argument fault needs a type annotation"),
        (check_loss, Loss("mean"), r"must have the shape \(5,\), not \(\)"),
        (check_loss, Loss("mixed"), "must not depend on the other positions"),
        (check_loss, Loss("gradient"), "must have a finite gradient, not zero"),
        (check_tokenizer, Teacher("neighbors"), "must not depend on the other images"),
        (check_tokenizer, Teacher("noise"), "the same images must give the same targets"),
        (check_tokenizer, Teacher("shape"), "features must have the shape"),
        (check_tokenizer, Teacher("gradient"), "targets must carry no gradient"),
        (check_decoder, Decoder("order"), "must follow the order of masks.predicted"),
        (check_decoder, Decoder("idle"), "no gradient reaches its parameters idle.weight, idle.bias"),
        (check_decoder, Decoder("shape"), "predictions must have the shape"),
    ],
)
def test_a_broken_part_is_told_what_is_wrong(check, part, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check(part)


class Forgetful(TrainedTokenizer):
    """A trained tokenizer whose quality() does not say whether it is usable."""

    version, target = 1, "codes"

    def build(self, grid):
        self.weight = torch.nn.Parameter(torch.ones(()))

    def training_loss(self, batch, progress):
        return self.weight * 1.0, {}

    def quality(self, batch, grid):
        return {"perplexity": 1.0}


def test_a_trained_tokenizer_must_say_whether_it_is_usable():
    with pytest.raises(AssertionError, match="must return usable"):
        check_tokenizer(Forgetful())


def test_checks_leave_the_global_random_state_alone():
    before = torch.get_rng_state()
    for kind, name in [p.values for p in PARTS]:
        CHECKS[kind](registry.build(kind, {"type": name, **SMALL.get(name, {})}))
    assert torch.equal(before, torch.get_rng_state())
