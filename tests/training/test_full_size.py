"""The recipes at full size: the sizes and settings of the papers and of the released code."""

from __future__ import annotations

import json
import math

import pytest
import torch
import yaml
from conftest import ROOT
from scipy.stats import truncnorm
from timm.models.beit import Beit
from torch import nn

from mimbench import registry
from mimbench.config.grid import load_grid
from mimbench.config.schema import EncoderConfig, ScheduleConfig, as_spec, from_spec
from mimbench.errors import UserError
from mimbench.models.encoder import Encoder, make_encoder
from mimbench.parts import PatchGrid
from mimbench.pretrain.fit import Objective, fit
from mimbench.pretrain.optim import learning_rate, parameter_groups
from mimbench.pretrain.step import make_pretraining
from mimbench.pretrain.tokenizer import make_tokenizer
from mimbench.runtime import Runtime

FULL = sorted(path.stem for path in (ROOT / "configs" / "recipes" / "full").glob("*.yaml"))
PLAIN_B, PLAIN_L = 85_798_656, 303_301_632  # timm's ViT-B/16 and ViT-L/16 at 224 px, without a head
MASK_B, MASK_L = 768, 1024
PARAMETERS = {  # encoder, decoder
    "beit_base": (PLAIN_B + MASK_B, 6_299_648),
    "beit_large": (PLAIN_L + MASK_L, 1024 * 8192 + 8192),
    "beit_plus_base": (91_965_776 - 6_299_648, 6_299_648),
    "mae_base": (PLAIN_B, 111_907_840 - PLAIN_B - 197 * 512),  # our fixed positions are no parameter
    "simmim_base": (91_965_776 - 6_299_648, 768 * 768 + 768),
    "supervised_deit_base": (PLAIN_B, 769_000),
}


def recipe(tmp_path, name, **row):
    """As the scale `paper` makes it, on whatever images."""
    grid = {"base": f"full/{name}", "scale": "paper", "protocols": ["knn"], "rows": [{"name": "a", **row}]}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid))
    return load_grid(str(tmp_path / "grid.yaml"), data="shapes", sets=("schedule.precision=fp32",)).rows[0].recipe


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", FULL)
def test_a_recipe_at_full_size_has_the_published_number_of_parameters(tmp_path, name):
    made = recipe(tmp_path, name)
    grid = PatchGrid.of(224, 16)
    (term,) = made.terms.values()
    with torch.device("meta"):
        encoder = Encoder(made.encoder, 224)
        decoder = registry.build("decoder", term.decoder)
        decoder.build(made.encoder.dim, registry.build("tokenizer", term.tokenizer).width(grid), grid)
    large = made.encoder.dim == 1024
    assert (encoder.depth, made.encoder.heads) == ((24, 16) if large else (12, 12))
    if name in PARAMETERS:
        assert (count(encoder), count(decoder)) == PARAMETERS[name]


def test_every_recipe_at_full_size_says_what_it_is(tmp_path):
    assert set(PARAMETERS) <= set(FULL)
    for name in FULL:
        header = (ROOT / "configs/recipes/full" / f"{name}.yaml").read_text().split("\n# ")
        text = " ".join(header)
        assert "Cost" in text, name
        assert "%" in text or "not published" in text, name
        schedule = recipe(tmp_path, name).schedule
        assert schedule.steps > 50_000
        assert schedule.batch in (1024, 2048, 4096)


def test_learning_rates_scale_with_the_batch_as_published(tmp_path):
    assert recipe(tmp_path, "mae_base").schedule.lr == pytest.approx(1.5e-4 * 4096 / 256)
    assert recipe(tmp_path, "simmim_base").schedule.lr == pytest.approx(1e-4 * 2048 / 512)
    assert recipe(tmp_path, "beit_base").schedule.lr == 1.5e-3
    assert recipe(tmp_path, "supervised_mae_base").schedule.lr == pytest.approx(1e-4 * 4096 / 256)


def test_simmims_rate_falls_to_a_tenth_after_epoch_700_of_800(tmp_path):
    schedule = recipe(tmp_path, "simmim_base").schedule
    assert learning_rate(schedule, 700 * 625 - 1) == 4e-4
    assert learning_rate(schedule, 700 * 625) == pytest.approx(4e-5)


def test_a_linear_decay_is_torchs_polynomial_of_power_one():
    schedule = ScheduleConfig(steps=50, warmup=10, lr=0.3, min_lr=0.0, decay="linear")
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    decay = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=40, power=1.0)
    for step in range(10, 50):
        assert learning_rate(schedule, step) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        decay.step()


def test_drops_and_the_step_decay_belong_together(tmp_path):
    with pytest.raises(UserError, match="drops"):
        recipe(tmp_path, "beit_base", schedule={"drops": [0.5]})
    with pytest.raises(UserError, match="Did you mean 'vectors'"):
        recipe(tmp_path, "beit_base", schedule={"no_decay": ["vector"]})


def test_beits_initialization_is_a_truncated_normal_rescaled_by_depth():
    config = EncoderConfig(type="beit", patch=4, dim=128, depth=6, heads=4, relative_positions="shared", positions="none",
                           init="beit")  # fmt: skip
    encoder = make_encoder(config, 32, 0)
    deviation = float(truncnorm.std(-1, 1) * 0.02)
    for number, block in enumerate(encoder.body.blocks, 1):
        for layer, factor in ((block.attn.qkv, 1), (block.mlp.fc1, 1), (block.attn.proj, math.sqrt(2 * number)),
                              (block.mlp.fc2, math.sqrt(2 * number))):  # fmt: skip
            assert float(layer.weight.std()) * factor == pytest.approx(deviation, rel=0.03)
            assert float(layer.weight.abs().max()) * factor <= 0.02 + 1e-8
    assert not encoder.body.rel_pos_bias.relative_position_bias_table.any()


def test_the_rescaling_by_depth_is_timms():
    torch.manual_seed(0)
    timms = Beit(
        img_size=32, patch_size=4, embed_dim=128, depth=6, num_heads=4
    )  # rescales, then initializes nothing anew
    ours = make_encoder(EncoderConfig(type="beit", patch=4, dim=128, depth=6, heads=4, init="beit"), 32, 0)
    ratios = [[float(b.attn.proj.weight.std() / b.attn.qkv.weight.std()) for b in body.blocks]
              for body in (timms, ours.body)]  # fmt: skip
    assert ratios[0] == pytest.approx(ratios[1], rel=0.03)


def test_the_initial_weights_differ_and_xavier_ones_are_as_before():
    config = EncoderConfig(patch=4, dim=32, depth=2, heads=2)
    beit = EncoderConfig(patch=4, dim=32, depth=2, heads=2, init="beit")
    one, two = (make_encoder(c, 32, 0).body.blocks[0].attn.qkv.weight for c in (config, beit))
    assert not torch.equal(one, two)
    assert float(one.detach().abs().max()) == pytest.approx(math.sqrt(6 / (32 + 96)), rel=0.01)


@pytest.mark.parametrize(
    ("no_decay", "free"),
    [
        (["vectors", "pos_embed", "cls_token"], {"body.pos_embed", "body.cls_token"}),  # BEiT
        (["vectors"], set()),  # MAE
        (None, {"body.pos_embed", "body.cls_token", "mask_token"}),
    ],
)
def test_what_does_not_decay_is_what_the_recipe_names(no_decay, free):
    encoder = make_encoder(EncoderConfig(patch=4, dim=32, depth=1, heads=2), 32, 0)
    schedule = ScheduleConfig() if no_decay is None else ScheduleConfig(no_decay=tuple(no_decay))
    groups = parameter_groups(encoder, 0.05, no_decay=schedule.no_decay)
    still = {id(p) for group in groups if not group["weight_decay"] for p in group["params"]}
    named = {name for name, p in encoder.named_parameters() if id(p) in still}
    assert {name for name in named if dict(encoder.named_parameters())[name].ndim > 1} == free
    assert all(name in named for name, p in encoder.named_parameters() if p.ndim == 1)


def test_initialization_and_decay_that_are_as_before_stay_out_of_specs_and_others_come_back_from_them():
    assert "init" not in as_spec(EncoderConfig())
    assert not {"decay", "drops", "no_decay"} & set(as_spec(ScheduleConfig()))
    for config in (EncoderConfig(init="beit"), ScheduleConfig(decay="step", drops=(0.5,), no_decay=("vectors",))):
        assert from_spec(type(config), json.loads(json.dumps(as_spec(config)))) == config


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FULL if name.endswith("_base")])  # a ViT-L takes a minute
def test_a_recipe_at_full_size_makes_one_step_on_two_images(tmp_path, name):
    from mimbench.data.sources import source
    from mimbench.plan.graph import _training_specs

    row = {"schedule": {"steps": 1, "batch": 2, "warmup": 0, "precision": "fp32"}}
    full = {"tokenizer": {"hidden": 8}} if name.startswith("beit") else {}
    made = recipe(tmp_path, name, **row, **full)
    grid = load_grid(str(tmp_path / "grid.yaml"), data="shapes")
    spec = _training_specs(grid.rows[0], grid, "fp32", source, {})["pretrain"]["recipe"]
    state = {}
    if name.startswith("beit"):
        state["tokenizer"] = make_tokenizer(spec["tokenizer"], PatchGrid.of(224, 16), 0).state_dict()
    objective = make_pretraining(spec, state, 0, torch.device("cpu"))
    assert isinstance(objective, Objective)
    before = objective.encoder.body.blocks[0].mlp.fc1.weight.detach().clone()
    batch = {"raw": torch.rand(2, 3, 224, 224), "label": torch.tensor([0, 1])}
    fit(objective, lambda step: iter([batch]), made.schedule, tmp_path / "work", 0, Runtime())
    after = objective.encoder.body.blocks[0].mlp.fc1.weight
    assert after.isfinite().all()
    assert not torch.equal(before, after)
