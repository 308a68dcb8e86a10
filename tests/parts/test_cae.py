"""CAE against figures of its official model (see cae_figures.py): same weights, same images, same masks."""

import json
from pathlib import Path

import pytest
import torch
from cae_figures import masked
from official_figures import CODES, DEPTH, DIM, HEADS, images, weights
from test_official_figures import GRID, as_masks, encoder_of
from torch import nn

from mimbench import registry
from mimbench.config.terms import TeacherConfig
from mimbench.models.places import on_grid
from mimbench.models.teacher import Teacher

OFFICIAL = json.loads((Path(__file__).parents[1] / "golden" / "cae.json").read_text())
TENSORS = weights(OFFICIAL["shapes"])
MASKS = as_masks(masked(), drop=True)
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
REGRESSOR = {
    "norm1_q": "norm_query", "norm1_k": "norm_key", "norm1_v": "norm_value", "norm2_cross": "norm_mlp",
    "cross_attn.q_bias": "query.bias", "cross_attn.v_bias": "value.bias", "cross_attn.q.": "query.", "cross_attn.k.": "key.",
    "cross_attn.v.": "value.", "cross_attn.proj": "project", "mlp_cross.fc1": "mlp.0", "mlp_cross.fc2": "mlp.2",
    "gamma_1_cross": "scale_attention", "gamma_2_cross": "scale_mlp", "regressor_blocks": "blocks",
}  # fmt: skip
BLOCKS = {"decoder_blocks": "blocks", "gamma_1": "ls1.gamma", "gamma_2": "ls2.gamma", "head.": "project."}


def loaded(name, prefix, names, width, **more):
    """Our decoder with the official weights and positions."""
    decoder = registry.build("decoder", {"type": name, "depth": DEPTH, "heads": HEADS})
    decoder.build(DIM, width, GRID)
    state = dict(more)
    for key, value in TENSORS.items():
        if key.startswith(prefix):
            key = key.removeprefix(prefix)
            for theirs, ours in names.items():
                key = key.replace(theirs, ours)
            state[key] = value
    for key in [key for key in state if key.endswith("attn.q_bias")]:
        q, v = state.pop(key), state.pop(key.replace("q_bias", "v_bias"))
        state[key.replace("q_bias", "qkv.bias")] = torch.cat([q, torch.zeros(DIM), v])
    decoder.load_state_dict(state)
    decoder.positions.copy_(torch.tensor(OFFICIAL["positions"]["decoder"])[0, 1:])
    return decoder.eval()


@pytest.fixture
def encoder(tmp_path):
    own = {key.removeprefix("encoder."): value for key, value in TENSORS.items() if key.startswith("encoder.")}
    return encoder_of({**own, "pos_embed": torch.tensor(OFFICIAL["positions"]["encoder"])}, tmp_path, masking="drop")


@torch.no_grad()
def test_regressed_features_and_token_logits_are_those_of_the_official_model(encoder):
    encoded = encoder(images(), MASKS)
    latent = loaded("regressor", "regresser.", REGRESSOR, DIM, mask_token=TENSORS["mask_token"])(encoded, MASKS)
    torch.testing.assert_close(latent.view(2, -1, DIM), torch.tensor(OFFICIAL["latent"]), **TOLERANCE)
    read = encoded.__class__(on_grid(latent, MASKS, MASKS.predicted), encoded.cls, None, {})
    logits = loaded("blocks", "decoder.", BLOCKS, CODES)(read, MASKS)
    torch.testing.assert_close(logits, torch.tensor(OFFICIAL["logits"]), **TOLERANCE)


@torch.no_grad()
def test_a_teacher_that_sees_hidden_patches_gives_the_official_targets_at_their_places(encoder):
    config = TeacherConfig(momentum=0.0, schedule="constant", sees="hidden", keep="student")
    teacher = Teacher(config, encoder, nn.ModuleDict(), frozen=False)
    seen = teacher.see(images(), MASKS, (DEPTH - 1,))
    found = seen.patches.flatten(0, 1)[MASKS.predicted].view(2, -1, DIM)
    torch.testing.assert_close(found, torch.tensor(OFFICIAL["target"]), **TOLERANCE)
    assert not seen.patches[~MASKS.masked].any()
    torch.testing.assert_close(encoder.body.norm(seen.taps[DEPTH - 1][:, 1:])[MASKS.masked], seen.patches[MASKS.masked])


def test_a_momentum_of_zero_makes_the_teacher_the_student_itself(encoder):
    config = TeacherConfig(momentum=0.0, schedule="constant", sees="hidden", keep="student")
    teacher = Teacher(config, encoder, nn.ModuleDict(), frozen=False)
    encoder.body.blocks[0].mlp.fc1.weight.data.mul_(1.1)
    teacher.follow(encoder, nn.ModuleDict(), 0.5)
    ours, theirs = teacher.encoder.state_dict(), encoder.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
