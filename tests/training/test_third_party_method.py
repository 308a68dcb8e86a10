"""A third party adds a method in one part file and one recipe: nothing in the engine knows of it."""

from __future__ import annotations

import sys
import textwrap

import pytest
import torch
import yaml
from conftest import SMALL
from test_training import StopAt

from mimbench.config.grid import load_grid
from mimbench.errors import Interrupted
from mimbench.plan.graph import make_plan
from mimbench.run.execute import execute
from mimbench.runtime import Runtime
from mimbench.store.results import Store
from mimbench.store.weights import load_weights

PARTS = """
import torch
from mimbench.parts import Decoder, StudentTokenizer, TeacherTokenizer, picked

class Whitened(TeacherTokenizer):
    '''The teacher's patch features, with mean and variance of a running estimate removed.'''

    version = 1
    target = "features"

    def build(self, dim, depth):
        super().build(dim, depth)
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("variance", torch.ones(dim))
        self.register_buffer("sums", torch.zeros(3, dim), persistent=False)

    def width(self, grid):
        return self.dim

    def taps(self):
        return (self.depth - 1,)

    def forward(self, taught, masks, level):
        x = taught.encoded.taps[self.depth - 1][:, 1:].float()
        self.sums += torch.stack([x.sum((0, 1)), x.square().sum((0, 1)), torch.full((self.dim,), x[..., 0].numel())])
        return (x - self.mean) / (self.variance + 1e-6).sqrt()

    def after_step(self, world):
        if world > 1:
            torch.distributed.all_reduce(self.sums)
        mean = self.sums[0] / self.sums[2]
        self.mean.lerp_(mean, 0.1)
        self.variance.lerp_(self.sums[1] / self.sums[2] - mean.square(), 0.1)
        self.sums.zero_()

class OtherView(StudentTokenizer):
    '''The model's own prediction of another view.'''

    version = 1
    target = "features"
    levels = ("image",)

    def width(self, grid):
        return 8

class Agreement:
    '''One minus the cosine.'''

    version = 1
    expects = "features"

    def __call__(self, prediction, target):
        return 1 - torch.nn.functional.cosine_similarity(prediction, target, dim=-1)

class Head(Decoder):
    '''One layer.'''

    version = 1
    restores_grid = False
    levels = ("patch", "image")

    def build(self, dim, width, grid):
        self.project = torch.nn.Linear(dim, width)

    def forward(self, encoded, masks):
        return self.project(picked(encoded, masks))
"""
RECIPES = {
    "whitened": """
tokenizer: {type: their_parts.Whitened}
masker: {type: blockwise, ratio: 0.5}
loss: smooth_l1
decoder: their_parts.Head
teacher: {momentum: 0.9, keep: student}
encoder: {type: vit, positions: sincos, masking: token}
""",
    "two-terms": """
masker: {type: random, ratio: 0.5}
decoder: their_parts.Head
encoder: {type: vit, positions: sincos, masking: token}
views:
  whole: {crop: [0.6, 1.0]}
  crop: {crop: [0.3, 0.8], share: 0.5, count: 2, jitter: [0.4, 0.4, 0.2, 0.1], masked: false}
terms:
  patch: {views: [whole], tokenizer: pixels, loss: mse}
  image: {level: image, weight: 0.5, tokenizer: their_parts.OtherView, loss: their_parts.Agreement}
""",
}


@pytest.fixture
def plan(tmp_path, monkeypatch):
    (tmp_path / "their_parts.py").write_text(PARTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, recipe in RECIPES.items():
        (tmp_path / f"{name}.yaml").write_text(textwrap.dedent(recipe))
    grid = {"name": "theirs", "scale": "smoke", "seeds": 1, "protocols": ["knn"],
            "rows": [{"name": name, "base": f"{name}.yaml"} for name in RECIPES]}  # fmt: skip
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid))
    yield make_plan(load_grid(str(tmp_path / "grid.yaml"), sets=SMALL))
    sys.modules.pop("their_parts", None)


@pytest.mark.parametrize("method", RECIPES)
def test_a_method_of_a_third_party_trains_resumes_to_the_same_bits_and_is_evaluated(plan, tmp_path, cache, method):
    runs = plan.rows[method][0]
    weights = []
    for label, at in (("straight", None), ("stopped", 3)):
        store = Store(tmp_path / label)
        store.cache = cache
        for name in runs.values():
            store.run(name).create(plan.runs[name].spec)
        stop = StopAt()
        stop.at = at
        if at is not None:
            with pytest.raises(Interrupted):
                execute(store, runs["pretrain"], Runtime(stop=stop, progress=stop))
        execute(store, runs["pretrain"], Runtime())
        weights.append(load_weights(store.run(runs["pretrain"]).work / "weights.pt"))
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert store.run(runs["pretrain"]).result()["metrics"]["loss"] > 0
    for kind in ("features", "knn"):
        execute(store, runs[kind], Runtime())
    assert 0 <= store.run(runs["knn"]).result()["metrics"][plan.columns[0].metric] <= 100


def test_the_terms_of_a_third_partys_method_are_in_the_key_with_the_hash_of_their_source(plan):
    recipe = plan.runs[plan.rows["two-terms"][0]["pretrain"]].spec["recipe"]
    assert {name: term["weight"] for name, term in recipe["terms"].items()} == {"patch": 1.0, "image": 0.5}
    assert recipe["terms"]["image"]["loss"]["origin"].startswith("source:")
