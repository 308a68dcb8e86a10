"""A tokenizer with another stride than the encoder's patch gets each image at a size of its own."""

from __future__ import annotations

import sys
import textwrap

import pytest
import torch
import yaml
from conftest import SMALL

from mimbench.config.grid import load_grid
from mimbench.data.loading import Keyed
from mimbench.data.sources import source
from mimbench.errors import UserError
from mimbench.plan.graph import make_plan
from mimbench.pretrain.fit import to_device
from mimbench.pretrain.step import make_pretraining
from mimbench.pretrain.terms import tokenizer_side
from mimbench.run.data import data_of
from mimbench.run.execute import execute
from mimbench.runtime import Runtime
from mimbench.testing import check_tokenizer

PARTS = """
import torch
from mimbench.models.blocks import patchify
from mimbench.parts import Tokenizer, TrainedTokenizer

class Half(Tokenizer):
    '''The pixels of an image of half the size.'''

    version, target, views, stride = 1, "features", ("raw",), 2
    seen = []

    def width(self, grid):
        return 3 * self.stride**2

    def forward(self, batch, grid):
        self.seen.append(dict(batch))
        return patchify(batch["raw"], grid.rows, grid.columns)

class Third(Half):
    stride = 3

class Learned(TrainedTokenizer, Half):
    stride = 2

    def build(self, grid):
        pass
"""


@pytest.fixture
def grid(tmp_path, monkeypatch):
    (tmp_path / "own_views.py").write_text(textwrap.dedent(PARTS))
    sys.modules.pop("own_views", None)
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(**row):
        path = tmp_path / "own.yaml"
        rows = [{"name": "half", "tokenizer": {"type": "own_views.Half"}, "loss": "mse", **row}]
        path.write_text(
            yaml.safe_dump({"name": "own", "base": "beit", "scale": "smoke", "protocols": ["knn"], "rows": rows})
        )
        return make_plan(load_grid(str(path), seeds=1, sets=SMALL))

    yield write
    sys.modules.pop("own_views", None)


def test_a_tokenizer_sees_its_own_rendering_of_the_encoders_crop(grid, store):
    plan = grid(data={"crop": [0.4, 1.0], "shift": 0})
    name = plan.rows["half"][0]["pretrain"]
    spec = plan.runs[name].spec
    assert tokenizer_side(spec["recipe"]) == 16  # 32 px in patches of 4, and 2 px per token
    store.run(name).create(spec)
    assert execute(store, name, Runtime()) == "done"

    import own_views

    own_views.Half.seen.clear()
    images = source("shapes").load(data_of(spec), "train", store.cache)
    batch = Keyed(images, 3, tokenizer_side=16).__getitems__([(0, i) for i in range(8)])
    assert {key: tuple(batch[key].shape[1:]) for key in ("raw", "tokenizer_raw")} == {
        "raw": (3, 32, 32), "tokenizer_raw": (3, 16, 16)
    }  # fmt: skip
    objective = make_pretraining(spec["recipe"], {}, 0, torch.device("cpu"))
    losses = []
    for micro_batch in (8, 3):
        micros = objective.prepare(batch, 0, Runtime(micro_batch=micro_batch))
        losses.append(sum(objective(to_device(micro, torch.device("cpu"))).item() for micro in micros))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    seen = own_views.Half.seen[0]
    assert torch.equal(seen["raw"], batch["tokenizer_raw"].float() / 255)
    assert seen["image"].shape == seen["raw"].shape


def test_what_a_loader_cannot_render_is_refused_while_planning(grid):
    with pytest.raises(
        UserError, match=r"2 pixels per token where the encoder has 4; a recipe with `views:` renders none"
    ):
        grid(views={"one": {"crop": [0.3, 1.0]}})
    with pytest.raises(
        UserError, match=r"own_views\.Third' and tokenizer 'own_views\.Half' read images of different sizes"
    ):
        grid(terms={"a": {}, "b": {"tokenizer": {"type": "own_views.Third"}}})


def test_a_tokenizer_that_is_trained_here_has_no_stride_of_its_own(grid):
    with pytest.raises(UserError, match=r"Learned' is trained on the encoder's images"):
        grid(tokenizer={"type": "own_views.Learned"})


def test_the_contract_of_tokenizers_gives_one_images_of_its_size(grid):
    import own_views

    check_tokenizer(own_views.Half())


def test_a_tokenizer_with_the_encoders_stride_sees_the_encoders_images(grid):
    recipe = grid(tokenizer={"type": "pixels"}).runs
    specs = [run.spec["recipe"] for run in recipe.values() if run.kind == "pretrain"]
    assert [tokenizer_side(spec) for spec in specs] == [None]
