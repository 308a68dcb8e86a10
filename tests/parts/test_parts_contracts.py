import inspect
from pathlib import Path

import pytest
import torch

from mimbench import parts, registry
from mimbench.config.parts import resolve
from mimbench.models.dalle_encoder import DalleEncoder
from mimbench.parts import StudentTokenizer, TeacherTokenizer, Tokenizer, TrainedTokenizer
from mimbench.registry import REGISTRIES
from mimbench.testing import CHECKS, check_decoder, check_loss, check_masker, check_tokenizer

registry.load_plugins()
PARTS = [
    pytest.param(kind, name, id=f"{kind}-{name}")
    for kind, found in REGISTRIES.items()
    for name, cls in sorted(found.module_dict.items())
    if cls.__module__.startswith("mimbench.registries.")
]
SMALL = {  # for speed, and to fit the small sizes of the checks
    "dvae": {"vocabulary": 32, "hidden": 8},
    "palette": {"colors": 8},
    "vqkd": {"vocabulary": 16, "code_dim": 4, "dim": 8, "depth": 1, "heads": 2, "decoder_depth": 1},
    "dalle": {"weights": ""},  # written by the fixture
    "clusters": {"clusters": 16},
    "self_distillation": {"prototypes": 16},
    "multiblock": {"min_keep": 2},
    "transformer": {"dim": 16, "depth": 2, "heads": 2},
    "aggregated": {"heads": 2},
    "cross_attention": {"depth": 1, "heads": 2},
    "predictor": {"dim": 16, "depth": 2, "heads": 2},
    "projector": {"hidden": 16},
    "prototypes": {"hidden": 16, "bottleneck": 8},
    "regressor": {"depth": 2, "heads": 2},
    "blocks": {"depth": 2, "heads": 2},
}
VARIANTS = [
    ("masker", {"type": "blockwise", "exact": True}),
    ("masker", {"type": "blockwise", "range": (0.1, 0.5), "skip": 0.5}),
    ("masker", {"type": "random", "cell": 2}),
    ("masker", {"type": "random", "predict": 0.3}),
    ("masker", {"type": "inverse_block", "predict": 0.1}),
    ("tokenizer", {"type": "latent", "layers": 6, "normalize_mean": True}),
    ("tokenizer", {"type": "self_distillation", "prototypes": 16, "temperature": 0.07, "warmup": 0.3}),
    ("tokenizer", {"type": "dvae", "vocabulary": 16, "hidden": 8, "perceptual": 1.0}),
    ("tokenizer", {"type": "self_distillation", "prototypes": 16, "centering": "sinkhorn"}),
    ("tokenizer", {"type": "twin", "dim": None}),
    ("decoder", {"type": "linear", "norm": True}),
    ("decoder", {"type": "cross_attention", "depth": 1, "heads": 2, "normalized_head": True}),
    ("decoder", {"type": "projector", "hidden": 16, "layers": 3}),
    ("decoder", {"type": "projector", "hidden": 16, "last_norm": True, "predictor": 2}),
]


@pytest.fixture(autouse=True, scope="module")
def dalle_weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("dalle") / "weights.pt"
    torch.save(DalleEncoder(8, 1, 32).state_dict(), path)
    SMALL["dalle"]["weights"] = str(path)


@pytest.mark.parametrize(("kind", "name"), PARTS)
def test_every_part_keeps_its_contract(kind, name):
    CHECKS[kind](registry.build(kind, {"type": name, **SMALL.get(name, {})}))


@pytest.mark.parametrize(
    ("kind", "spec"), VARIANTS, ids=lambda value: value if isinstance(value, str) else value["type"]
)
def test_variants_of_parts_keep_the_contract(kind, spec):
    CHECKS[kind](registry.build(kind, spec))


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
    needed = SMALL[name] if name == "dalle" else {}
    spec = resolve(kind, {"type": name, **needed}, "row")
    assert spec["version"] >= 1
    assert spec == resolve(kind, spec, "row")  # what stands in a run's folder reads back as itself
    assert any(row[0] == name and row[3] for row in registry.listing(kind))


class Masker:
    """A masker to break."""

    version = 1
    constant_count = True

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        self.predict = 1.5 if fault == "predict" else 0.5

    def __call__(self, batch, grid, rng):
        noise = torch.rand(batch, grid[0] * grid[1], generator=None if self.fault == "global" else rng)
        if self.fault == "shape":
            noise = noise[:, 1:]
        mask = noise < 0.5 if self.fault == "count" else noise.argsort(1) < 5
        return mask.float() if self.fault == "type" else mask


class BlockMasker(Masker):
    """A masker with blocks to break: it hides the top row, of which two blocks are predicted."""

    def __call__(self, batch, grid, rng):
        mask, _ = self.blocks(batch, grid, rng)
        return ~mask if self.fault == "call" else mask

    def blocks(self, batch, grid, rng):
        mask = (torch.arange(grid[0] * grid[1]) < grid[1]).repeat(batch, 1)
        first = {"visible": grid[1], "outside": -1}.get(self.fault, 0)
        blocks = torch.tensor([[first, 1], [2, 2 if self.fault == "twice" else 3]]).repeat(batch, 1, 1)
        return mask, blocks[0] if self.fault == "shape" else blocks


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


class Contrast:
    """A loss over whole batches to break."""

    version, expects, whole_batch = 1, "features", True

    def __init__(self, fault: str = "") -> None:
        self.fault = fault

    def __call__(self, predictions, targets, mine):
        if self.fault == "gradient":
            predictions = torch.cat([predictions[:1].detach(), predictions[1:]])
        values = -(predictions @ targets.mT).log_softmax(1).diagonal()
        if self.fault == "share":
            return values[mine] / values[mine].sum()
        return values if self.fault == "rows" else values[mine]


class PatchMeans(Tokenizer):
    """A tokenizer to break."""

    version, target = 1, "features"

    def __init__(self, fault: str = "") -> None:
        super().__init__()
        self.fault, self.scale = fault, torch.nn.Parameter(torch.ones(()))
        self.levels = ("patch", "image") if fault == "levels" else ("patch",)

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


class Prototypes(TeacherTokenizer):
    """A tokenizer of a teacher that is a moving average, with a head and a center of its own, to break."""

    version, target, levels = 1, "distribution", ("patch", "image")

    def __init__(self, fault: str = "") -> None:
        super().__init__()
        self.fault = fault
        self.register_buffer("center", torch.zeros(6))

    def width(self, grid):
        return 6

    def build(self, dim, depth):
        super().build(dim, depth)
        self.head = torch.nn.Linear(dim, 6)

    def taps(self):
        return (self.depth if self.fault == "taps" else self.depth - 1,)

    def forward(self, taught, masks, level):
        tapped = taught.encoded.norm(taught.encoded.taps[self.depth - 1])
        scores = self.head(tapped[:, 0] if level == "image" else tapped[:, 1:]) - self.center
        self.mean = scores.flatten(0, -2).mean(0)
        if self.fault == "early":
            self.center.lerp_(self.mean, 0.1)
        if self.fault == "neighbors":
            scores = scores - scores.mean(0)
        return scores.softmax(-1) * (2 if self.fault == "sums" else 1)

    def own_loss(self, taught, target):
        return None if self.fault == "own_loss" else self.head(taught.encoded.patches).square().mean()

    def own_optimizer(self):
        return {"speed" if self.fault == "optimizer" else "lr": 1e-3}

    def after_step(self, world):
        self.center.lerp_(self.mean / (0 if self.fault == "infinite" else 1), 0.1)
        if self.fault == "parameters":
            self.head.weight.data += 1


class OtherView(StudentTokenizer):
    """A tokenizer of the student to break."""

    version, target, levels = 1, "features", ("image",)

    def __init__(self, fault: str = "") -> None:
        super().__init__()
        self.fault = fault
        self.reads = "views" if fault == "reads" else "student"

    def width(self, grid):
        return 0 if self.fault == "width" else 8


class Decoder(parts.Decoder):
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


class ClassToken(parts.Decoder):
    """A decoder of the class token to break."""

    version, restores_grid = 1, False

    def __init__(self, fault: str = "") -> None:
        super().__init__()
        self.fault = fault
        self.levels = ("pixel",) if fault == "level" else ("image",)

    def build(self, dim, width, grid, last=None):
        self.project = torch.nn.Linear(dim, width)

    def forward(self, encoded, masks):
        x = self.project(encoded.cls.detach() if self.fault == "features" else encoded.cls)
        return x - x.mean(0) if self.fault == "neighbors" else x

    def after_backward(self, progress):
        if progress < 0.1 or self.fault == "frozen":
            self.project.weight.grad = None


class NotADecoder(torch.nn.Module):
    """Has the methods of a decoder, and not the class."""

    version, restores_grid, build = 1, False, Decoder.build


THIRD_PARTY = {
    check_masker: (Masker, BlockMasker),
    check_loss: (Loss, Contrast),
    check_tokenizer: (PatchMeans, Prototypes, OtherView),
    check_decoder: (Decoder, ClassToken),
}


@pytest.mark.parametrize(("check", "part"), [(check, part) for check, found in THIRD_PARTY.items() for part in found])
def test_a_third_party_part_that_keeps_the_contract_passes(check, part):
    check(part())


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        (Masker("global"), "Masker: must draw from the given generator"),
        (Masker("shape"), r"masks must have the shape \(16, 24\), not \(16, 23\)"),
        (Masker("count"), "has constant_count, but masks"),
        (Masker("type"), "masks must be a bool tensor"),
        (Masker("predict"), "a share must lie between 0 and 1"),
        (BlockMasker("call"), "must hide what a call with the same generator hides"),
        (BlockMasker("visible"), "must hide the blocks to predict"),
        (BlockMasker("outside"), "blocks must be positions in the grid"),
        (BlockMasker("twice"), "must list each of its patches once"),
        (BlockMasker("shape"), r"int64 of shape \(batch, blocks, patches\)"),
        (UnversionedMasker(), "version: must be an integer"),
        (SilentMasker(), "needs a docstring"),
        (UnannotatedMasker(), "argument fault needs a type annotation"),
        (Loss("mean"), r"must have the shape \(5,\), not \(\)"),
        (Loss("mixed"), "must not depend on the other positions"),
        (Loss("gradient"), "must have a finite gradient, not zero"),
        (Contrast("rows"), r"the loss of the first rows must have the shape \(2,\), not \(5,\)"),
        (Contrast("share"), "must add up to the loss of the whole batch"),
        (Contrast("gradient"), "for every prediction"),
        (PatchMeans("neighbors"), "must not depend on the other images"),
        (PatchMeans("noise"), "the same images must give the same targets"),
        (PatchMeans("shape"), "features must have the shape"),
        (PatchMeans("gradient"), "targets must carry no gradient"),
        (PatchMeans("levels"), "works at one level"),
        (Prototypes("taps"), r"taps must be blocks in 0 .. 11, not \(12,\)"),
        (Prototypes("sums"), "must sum to 1"),
        (Prototypes("early"), "the same images must give the same targets"),
        (Prototypes("neighbors"), "must not depend on the other images"),
        (Prototypes("own_loss"), "own_loss must have a gradient to its own parameters"),
        (Prototypes("optimizer"), "AdamW has no setting speed"),
        (Prototypes("infinite"), "distribution must be finite"),
        (Prototypes("parameters"), "parameters are the optimizer's"),
        (OtherView("reads"), "`reads` must be student for a StudentTokenizer"),
        (OtherView("width"), "width must be a positive integer"),
        (Decoder("order"), "must follow the order of masks.predicted"),
        (Decoder("idle"), "no gradient reaches its parameters idle.weight, idle.bias"),
        (Decoder("shape"), "predictions must have the shape"),
        (ClassToken("level"), "levels.0: 'pixel' is not allowed"),
        (ClassToken("features"), "no gradient reaches the encoder's features"),
        (ClassToken("neighbors"), "without whole_batch"),
        (ClassToken("frozen"), "no gradient reaches its parameters project.weight"),
        (NotADecoder(), "must be a subclass of mimbench.parts.Decoder"),
    ],
    ids=lambda value: f"{type(value).__name__}-{value.fault}" if hasattr(value, "fault") else "",
)  # fmt: skip
def test_a_broken_part_is_told_what_is_wrong(part, sentence):
    bases = {
        check_tokenizer: Tokenizer,
        check_decoder: torch.nn.Module,
        check_loss: (Loss, Contrast),
        check_masker: Masker,
    }
    check = next(check for check, base in bases.items() if isinstance(part, base))
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


class Moving(Forgetful):
    """Its training may read a teacher, and keep a layer of it, or move what belongs to the optimizer."""

    needs_teacher = True

    def __init__(self, fault: str = "") -> None:
        super().__init__()
        self.fault = fault

    def width(self, grid):
        return 2

    def learn_from(self, teacher):
        self.taught = teacher.dim
        if self.fault == "layer":
            self.weight.data.fill_(3.0)
            self.more = torch.nn.Parameter(torch.ones(()))

    def forward(self, batch, grid):
        codes = torch.zeros(len(batch["raw"]), grid.count, dtype=torch.int64)
        return codes + self.more.long() if self.fault == "layer" else codes

    def training_loss(self, batch, progress):
        loss = self.weight * batch["image"].mean() * self.taught
        return loss + self.more if self.fault == "layer" else loss, {}

    def after_step(self, world):
        if self.fault == "step":
            self.weight.data += 1

    def quality(self, batch, grid):
        return {"usable": True, "why": "it moves"}


def test_a_tokenizer_with_a_teacher_may_use_in_pretraining_only_what_was_there_before_it():
    check_tokenizer(Moving())
    with pytest.raises(AttributeError, match="more"):
        check_tokenizer(Moving("layer"))
    with pytest.raises(AssertionError, match="parameters are the optimizer's"):
        check_tokenizer(Moving("step"))


class NoisyMasker(Masker):
    """A masker by noise to break."""

    def noise(self, batch, grid, rng):
        return torch.rand(batch, grid[0] * grid[1], generator=rng)

    def __call__(self, batch, grid, rng):
        rank = self.noise(batch, grid, rng).argsort(1).argsort(1)
        return rank >= 19 if self.fault == "order" else rank < 5


def test_a_masker_with_noise_hides_the_patches_of_the_smallest():
    check_masker(NoisyMasker())
    with pytest.raises(AssertionError, match="must hide the patches with the smallest noise"):
        check_masker(NoisyMasker("order"))


def test_checks_leave_the_global_random_state_alone():
    before = torch.get_rng_state()
    for kind, name in [p.values for p in PARTS]:
        CHECKS[kind](registry.build(kind, {"type": name, **SMALL.get(name, {})}))
    assert torch.equal(before, torch.get_rng_state())
