"""The tokenizer of DALL-E against OpenAI's package and transformers' FLAVA, with random weights in each layout."""

from __future__ import annotations

import pickle

import pytest
import torch
import yaml
from conftest import SMALL
from transformers import FlavaImageCodebook, FlavaImageCodebookConfig

from mimbench.config.grid import load_grid
from mimbench.errors import UserError
from mimbench.models.dalle_encoder import DalleEncoder, load_dalle
from mimbench.parts import PatchGrid
from mimbench.plan.graph import make_plan
from mimbench.plan.record import prepare
from mimbench.registries.tokenizers.dalle import Dalle
from mimbench.run.execute import execute
from mimbench.runtime import Runtime
from mimbench.store.files import sha256_file


def openai_encoder():
    dall_e = pytest.importorskip("dall_e")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = dall_e.Encoder(n_hid=64, n_blk_per_group=2, vocab_size=512)
        for name, parameter in encoder.named_parameters():
            if name.endswith("b"):
                torch.nn.init.normal_(parameter, std=0.1)
        return encoder, dall_e.map_pixels


def pixels(side=32):
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("layout", ["pickled module", "pickled before torch 1.6", "state dict"])
@torch.no_grad()
def test_logits_and_codes_are_openais(tmp_path, layout):
    theirs, map_pixels = openai_encoder()
    path = tmp_path / "encoder.pkl"
    if layout == "state dict":
        torch.save({"state_dict": theirs.state_dict()}, path)
    else:
        torch.save(theirs, path, _use_new_zipfile_serialization=layout == "pickled module")
    expected = theirs(map_pixels(pixels()))
    torch.testing.assert_close(load_dalle(path)(pixels()), expected, atol=1e-5, rtol=1e-5)
    tokenizer = Dalle(str(path))
    tokenizer.load()
    codes = tokenizer({"raw": pixels()}, PatchGrid(4, 4, 16))
    assert torch.equal(codes, expected.argmax(1).flatten(1))
    assert tokenizer.width(PatchGrid(4, 4, 16)) == 512


@torch.no_grad()
def test_codes_are_those_of_flavas_codebook(tmp_path):
    config = FlavaImageCodebookConfig(hidden_size=32, num_blocks_per_group=1, vocab_size=64)
    theirs = FlavaImageCodebook(config).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    theirs.save_pretrained(tmp_path)
    ours = load_dalle(tmp_path / "model.safetensors")
    torch.testing.assert_close(ours(pixels()), theirs(0.8 * pixels() + 0.1), atol=1e-5, rtol=1e-5)


def test_the_published_encoder_has_its_published_size():
    with torch.device("meta"):
        encoder = DalleEncoder(256, 2, 8192)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 53_786_240
    assert len(encoder.state_dict()) == 74


class Opens:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


class Other(torch.nn.Module):
    """A class that is not DALL-E's."""


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (Other(), r"it holds the class test_dalle\.Other, which is not executed"),
        ({"blocks.input.w": torch.ones(4, 3, 7, 7)}, r"lacks blocks\.input or blocks\.output\.conv"),
        (
            {**DalleEncoder(8, 1, 16).state_dict(), "blocks.input.bias": torch.ones(9)},
            r"blocks\.input\.bias is not as expected",
        ),
        (torch.ones(2), "must hold tensors by name, not one Tensor"),
    ],
    ids=["a foreign class", "few tensors", "another shape", "one tensor"],
)
@pytest.mark.parametrize("archive", [True, False])
def test_another_file_is_refused_by_what_it_holds(tmp_path, content, sentence, archive):
    torch.save(content, tmp_path / "file.pkl", _use_new_zipfile_serialization=archive)
    with pytest.raises(ValueError, match=sentence):
        load_dalle(tmp_path / "file.pkl")


@pytest.mark.parametrize("archive", [True, False])
def test_code_in_a_pickle_is_not_executed(tmp_path, archive):
    path, traced = tmp_path / "evil.pkl", tmp_path / "executed"
    torch.save({"blocks": Opens(traced)}, path, _use_new_zipfile_serialization=archive)
    with pytest.raises(ValueError, match=r"it holds the class (_?io|builtins)\.open, which is not executed"):
        load_dalle(path)
    path.write_bytes(pickle.dumps({"blocks": Opens(traced)}, protocol=2))  # a pickle that is not torch's
    with pytest.raises(ValueError, match="not readable as weights"):
        load_dalle(path)
    assert not traced.exists()


def test_a_truncated_file_is_refused(tmp_path):
    whole, path = tmp_path / "whole.pkl", tmp_path / "half.pkl"
    for archive in (True, False):
        torch.save(DalleEncoder(8, 1, 16).state_dict(), whole, _use_new_zipfile_serialization=archive)
        path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
        with pytest.raises(ValueError, match="not readable as weights"):
            load_dalle(path)


def test_another_grid_than_that_of_the_codes_is_refused(tmp_path):
    torch.save(DalleEncoder(8, 1, 16).state_dict(), tmp_path / "weights.pt")
    tokenizer = Dalle(str(tmp_path / "weights.pt"))
    tokenizer.load()
    with pytest.raises(ValueError, match="4 x 4 patches need 32 x 32 pixels, not 64 x 64"):
        tokenizer({"raw": pixels(64)}, PatchGrid(4, 4, 16))


def planned(tmp_path, weights):
    grid = {"name": "mine", "base": "beit", "scale": "smoke", "seeds": 1, "protocols": ["knn"], "rows": [
        {"name": "dalle", "tokenizer": {"type": "dalle", "weights": str(weights)}, "encoder": {"patch": 8}}]}  # fmt: skip
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(grid))
    return make_plan(load_grid(str(tmp_path / "mine.yaml"), sets=(*SMALL, "masker.min_block=1")))


def test_a_row_pre_trains_on_codes_of_a_file_that_its_run_is_named_by(tmp_path, store, monkeypatch):
    torch.save(DalleEncoder(8, 1, 16).state_dict(), tmp_path / "weights.pt")
    monkeypatch.setattr(store, "imported", lambda sha256: tmp_path / "copies" / sha256)
    plan = planned(tmp_path, tmp_path / "weights.pt")
    name = plan.rows["dalle"][0]["pretrain"]
    assert plan.runs[name].spec["recipe"]["tokenizer"]["weights"] == f"sha256:{sha256_file(tmp_path / 'weights.pt')}"
    prepare(plan, store)
    (tmp_path / "weights.pt").rename(tmp_path / "renamed.pt")
    assert planned(tmp_path, tmp_path / "renamed.pt").rows["dalle"][0]["pretrain"] == name
    (tmp_path / "renamed.pt").unlink()
    execute(store, name, Runtime())  # from the copy
    assert 0 < store.run(name).result()["metrics"]["loss"] < 20
    with pytest.raises(UserError, match=r"row 'dalle': tokenizer\.weights: no file .*renamed\.pt\."):
        planned(tmp_path, tmp_path / "renamed.pt")
