"""Terms, views, teachers and parents: what does not fit is refused while planning; rows, scales and --set merge into terms."""

from __future__ import annotations

import pytest
import yaml
from conftest import ROOT
from grids import error_of, written

from mimbench.cli.commands import main
from mimbench.config.grid import load_grid
from mimbench.config.merge import read_yaml
from mimbench.errors import UserError
from mimbench.kinds import forward_flops
from mimbench.plan.description import describe
from mimbench.plan.graph import make_plan
from mimbench.plan.pairing import edges
from mimbench.plan.terms import check_terms
from mimbench.pretrain.flops import flops_per_image

GLOBAL = {"global": {"count": 2, "masked": False}}
LOCAL = {"global": {"count": 2, "masked": False}, "local": {"share": 0.5, "masked": False}}
LATENT = {"tokenizer": "latent", "loss": "mse", "decoder": "linear", "masker": "random"}
MOVING = {"momentum": 0.9}
VQKD = {"type": "vqkd", "vocabulary": 8, "code_dim": 4, "dim": 8, "depth": 1, "heads": 2, "decoder_depth": 1}


def row(name="a", **changes):
    return {"name": name, **changes}


def terms(**changes):
    """A term beside the flat recipe's parts; `None` keeps the recipe's own."""
    return {"a": {key: value for key, value in changes.items() if value is not None}}


REFUSED = {
    "teacher row that is not there": (
        [row(**LATENT, teacher={"row": "dinoo", "keep": "student"}), row("dino", base="dino")],
        ["row 'a': teacher.row", "unknown row 'dinoo'", "Did you mean 'dino'"]),
    "teacher row without pre-training": (
        [row(**LATENT, teacher={"row": "b", "keep": "student"}), row("b", pretrain=False)],
        ["teacher.row", "'b' is not pre-trained; name a row that is"]),
    "teacher row that builds on this one": (
        [row(**LATENT, teacher={"row": "b", "keep": "student"}), row("b", start={"row": "a"})],
        ["row 'b': start.row", "'a' builds on this row itself"]),
    "teacher row with other patches": (
        [row(**LATENT, teacher={"row": "b", "keep": "student"}), row("b", encoder={"patch": 8})],
        ["teacher.row", "32 px in patches of 8 there, 32 px in patches of 4 here"]),
    "teacher that no term reads": (
        [row(teacher=MOVING)], ["teacher: no term reads it", "Allowed: clusters, latent, projection, self_distillation."]),
    "teacher missing": (
        [row(**LATENT)], ["tokenizer 'latent' reads the teacher", "Add `teacher: {momentum: 0.996}`"]),
    "teacher of another row without a head": (
        [row(base="dino", teacher={"row": "b", "keep": "student"}), row("b")],
        ["'self_distillation' reads the teacher's decoder", "Use a moving average"]),
    "more layers than the teacher has": (
        [row(**{**LATENT, "tokenizer": {"type": "latent", "layers": 9}}, teacher=MOVING)],
        ["layers: the teacher has 2 blocks, not 9"]),
    "teacher by row and by file": (
        [row(**LATENT, teacher={"row": "b", "weights": "b.pt", "keep": "student"}), row("b")],
        ["rows.0.teacher: name one of row and weights, not both (row 'b', weights 'b.pt')"]),
    "teacher by file that would leave the run": (
        [row(**LATENT, teacher={"weights": "b.pt"})], ["teacher.keep: must be student: the teacher 'b.pt'"]),
    "teacher by file that is not there": (
        [row(**LATENT, teacher={"weights": "b.pt", "keep": "student"})], ["row 'a': teacher.weights: no file b.pt"]),
    "teacher by file in place of the recipe's row": (
        [row(base="eva", teacher={"weights": "b.pt"})], ["row 'a': teacher.weights: no file b.pt"]),
    "tokenizer's teacher by file in place of the recipe's row": (
        [row(base="beit2", tokenizer_training={"teacher": {"weights": "b.pt"}})],
        ["row 'a': tokenizer_training.teacher.weights: no file b.pt"]),
    "teacher of the recipe, alone in its grid": (
        [row(base="eva")], ["row 'a': teacher.row: unknown row 'dino'. Allowed: no name at all. Add a row of that name"]),
    "masker that follows a teacher, without one": (
        [row(masker="attention_guided")],
        ["masker 'attention_guided' follows a teacher's attention, and the recipe has none"]),
    "masker that follows a teacher without attention of a class token": (
        [row(base="milan", teacher={"row": "b"}), row("b", base="beit_plus")],
        ["masker 'attention_guided' follows the attention of the teacher's class token", "encoder type 'vit'"]),
    "masker that follows a teacher, and views": (
        [row(base="milan", teacher={"row": "b"}, views={"a": {}}), row("b")],
        ["masker 'attention_guided'", "a recipe with `views:` is not supported"]),
    "tokenizer without its teacher": (
        [row(tokenizer=VQKD)],
        ["row 'a': tokenizer 'vqkd' learns from a teacher, and none is named", "teacher: {row: NAME}"]),
    "tokenizer with a teacher that it does not need": (
        [row(tokenizer_training={"teacher": {"row": "b"}}), row("b")],
        ["row 'a': tokenizer_training.teacher: tokenizer 'dvae' learns from none"]),
    "tokenizer with a teacher that has no name": (
        [row(tokenizer=VQKD, tokenizer_training={"teacher": {}})],
        ["tokenizer_training.teacher: name one of row (a row of the grid) and weights (a checkpoint)"]),
    "tokenizer with an unknown teacher": (
        [row(tokenizer=VQKD, tokenizer_training={"teacher": {"row": "dinoo"}, "crop": None}), row("dino", base="dino")],
        ["row 'a': tokenizer_training.teacher.row: unknown row 'dinoo'", "Did you mean 'dino'"]),
    "tokenizer with a teacher that is not trained": (
        [row(tokenizer=VQKD, tokenizer_training={"teacher": {"row": "b"}}), row("b", pretrain=False)],
        ["tokenizer_training.teacher.row: 'b' is not pre-trained"]),
    "tokenizer that its own row teaches": (
        [row(tokenizer=VQKD, tokenizer_training={"teacher": {"row": "a"}, "crop": None})],
        ["tokenizer_training.teacher.row: 'a' builds on this row itself"]),
    "tokenizers that teach one another": (
        [row(tokenizer=VQKD, tokenizer_training={"teacher": {"row": "b"}, "crop": None}), row("b", start={"row": "a"})],
        ["row 'b': start.row: 'a' builds on this row itself"]),
    "tokenizer with a teacher of other patches": (
        [row(tokenizer=VQKD, tokenizer_training={"teacher": {"row": "b"}, "crop": None}), row("b", encoder={"patch": 8})],
        ["tokenizer_training.teacher.row: 'b' has another grid of patches"]),
    "tokenizer with a teacher, on crops": (
        [row(tokenizer=VQKD, tokenizer_training={"teacher": {"row": "b"}}), row("b")],
        ["tokenizer_training.crop: must be null", "sees whole images, not crops of 16 pixels"]),
    "tokenizer trained on crops larger than the image": (
        [row(tokenizer_training={"crop": 64})],
        ["tokenizer_training.crop: must be at most data.size, 32, not 64"]),
    "more codes than a step of the tokenizer's training has vectors": (
        [row(tokenizer={**VQKD, "vocabulary": 2000}, tokenizer_training={"teacher": {"row": "b"}, "crop": None}), row("b")],
        ["tokenizer 'vqkd' begins with 2000 of the 1024 vectors of a step", "raise tokenizer_training.batch"]),
    "view": (
        [row(base="dino", terms={"class": {"views": ["globl"]}})],
        ["terms.class.views", "unknown view 'globl'", "Did you mean 'global'"]),
    "target": (
        [row(base="dino", terms={"class": {"targets": ["other"]}})],
        ["terms.class.targets", "unknown view 'other'", "Allowed: global, local"]),
    "patch term whose target is another view": (
        [row(masker="random", views={"x": {}, "y": {}}, terms=terms(views=["x"], targets=["y"]))],
        ["level patch compares a view with itself", "Use targets: [x]"]),
    "patch term with a view more than targets": (
        [row(masker="random", views={"x": {}, "y": {}}, terms=terms(views=["x", "y"], targets=["x"]))],
        ["so views and targets must be the same"]),
    "view that no term uses": (
        [row(base="dino", views={"globl": {"crop": [0.3, 1]}})], ["views.globl: no term uses it", "Did you mean 'global'"]),
    "mask token of a view that no term predicts": (
        [row(base="dino", encoder={"masking": "token"}, masker="random", views={"seen": {}}, terms={"class": {"targets": ["seen"]}})],
        ["no view is masked"]),
    "causal attention and a decoder that mixes positions": (
        [row(base="igpt", decoder="transformer")],
        ["a prediction may read its own position only", "decoder 'transformer' mixes positions", "Allowed: identity, linear"]),
    "self-distillation by a decoder of whole images": (
        [row(base="dino", terms={"class": {"decoder": {"type": "projector"}}})],
        ["reads the teacher's decoder position by position, which decoder 'projector' cannot"]),
    "heads that do not divide the dimension": (
        [row(base="capi", decoder={"heads": 3})],
        ["decoder 'cross_attention' does not suit the encoder", "3 heads and 4 must divide the dimension"]),
    "augmentation of the data beside views": (
        [row(base="dino", data={"flip": False})], ["data.flip: does nothing where a recipe has views"]),
    "same_as": (
        [row(base="beit_aggregated", terms={"aggregated": {"decoder": {"same_as": "patches"}}})],
        ["same_as", "unknown term with a decoder of its own 'patches'", "Did you mean 'patch'"]),
    "same_as of another width": (
        [row(base="beit_aggregated", terms={"aggregated": {"tokenizer": {"vocabulary": 64}}})],
        ["term 'patch' predicts 32 values, this one 64; give both the same tokenizer"]),
    "same_as for a decoder that shares nothing": (
        [row(terms={"a": {}, "b": {"decoder": {"type": "tests_no_last", "same_as": "a"}}})],
        ["decoder 'tests_no_last' shares no layers", "write `same_as` alone"]),
    "after a term that is not there": (
        [row(base="cae", terms={"tokens": {"decoder": {"after": "aling"}}})],
        ["terms.tokens.decoder.after", "unknown term with a decoder of its own 'aling'", "Did you mean 'align'"]),
    "after a term that comes after this one": (
        [row(base="cae", terms={"align": {"decoder": {"after": "tokens"}}})],
        ["terms.align.decoder.after", "unknown term with a decoder of its own 'tokens'"]),
    "after a term that predicts other views": (
        [row(base="cae", views={"x": {}, "y": {}}, terms={"align": {"views": ["x"]}})],
        ["decoder.after: 'align': it does not predict view 'y'"]),
    "after a term of images": (
        [row(masker="random", terms={"a": {"level": "image", "tokenizer": {"type": "labels", "classes": 12}},
                                     "b": {"decoder": {"type": "linear", "after": "a"}}})],
        ["terms.b.decoder.after: 'a': both terms need level patch, and that term has level image"]),
    "after a term, by a decoder that fills gaps": (
        [row(base="cae", terms={"tokens": {"decoder": {"type": "transformer", "after": "align"}}})],
        ["decoder 'transformer' fills the gaps between visible patches, and predictions leave none"]),
    "after a term, heads that do not divide its width": (
        [row(base="cae", terms={"tokens": {"decoder": {"heads": 3}}})],
        ["terms.tokens: decoder 'blocks' does not suit the encoder", "3 heads and 4 must divide the dimension"]),
    "more clusters than a batch can feed": (
        [row(base="capi", tokenizer={"clusters": 2049})],
        ["tokenizer 'clusters' spreads the 32 images of a step evenly over 2049 prototypes: at most 2048, 64 an image",
         "Give it fewer, or raise schedule.batch."]),
    "more balanced prototypes than a batch can feed": (
        [row(base="dinov2", tokenizer={"prototypes": 4096})],
        ["terms.class: tokenizer 'self_distillation' spreads the 32 images of a step evenly over 4096 prototypes"]),
    "more balanced prototypes than a step has patches": (
        [row(base="data2vec", tokenizer={"type": "self_distillation", "centering": "sinkhorn", "prototypes": 2049},
             decoder="prototypes", loss="soft_cross_entropy")],
        ["tokenizer 'self_distillation' spreads the 2048 patches of a step", "at most 2048, as many as patches."]),
    "contrast within one image": (
        [row(base="mocov3", schedule={"batch": 1})],
        ["terms.pair: loss 'info_nce' compares the images of a batch, and schedule.batch is 1"]),
    "projection without a teacher": (
        [row(base="mocov3", teacher=None)], ["tokenizer 'projection' reads the teacher, and the recipe has none"]),
    "projection of another row's teacher": (
        [row(base="byol", teacher={"row": "b"}), row("b")],
        ["'projection' reads the teacher's decoder", "Use a moving average"]),
    "view larger than the image": (
        [row(base="dino", views={"local": {"share": 1.5}})],
        ["views.local.share: must be greater than 0 and at most 1, the side of the image (data.size), not 1.5"]),
    "decoder that keeps the width, and another target": (
        [row(base="cae", terms={"align": {"tokenizer": {"type": "pixels"}}})],
        ["terms.align: decoder 'regressor' predicts as many values as the features it reads have, 32", "'pixels' gives 48"]),
    "teacher of hidden patches, whole images to the student": (
        [row(**LATENT, teacher={**MOVING, "sees": "hidden"})],
        ["teacher.sees 'hidden' needs encoder.masking 'drop', not 'token'"]),
    "teacher of hidden patches, a center over all": (
        [row(base="cae", terms={"align": {"tokenizer": "self_distillation", "decoder": "prototypes",
                                          "loss": "soft_cross_entropy"}})],
        ["teacher.sees 'hidden': tokenizer 'self_distillation' compares all patches"]),
    "teacher of hidden patches, targets everywhere": (
        [row(base="cae", masker={"type": "random", "ratio": 0.5, "predict": "all"})],
        ["teacher.sees 'hidden' gives targets at hidden patches only", "predict: all"]),
    "teacher of hidden patches, another row's": (
        [row(base="cae", teacher={"row": "b"}), row("b")], ["teacher.sees 'hidden' needs a moving average"]),
    "decoder that needs another's last layer": (
        [row(masker="random", terms={"a": {"decoder": {"type": "aggregated", "layer": 1, "heads": 2}}})],
        ["terms.a: decoder 'aggregated' predicts with another term's decoder", "same_as"]),
    "block that the encoder does not have": (
        [row(base="beit_aggregated", terms={"aggregated": {"decoder": {"layer": 9}}})],
        ["terms.aggregated: decoder 'aggregated' does not suit the encoder", "layer 9", "of 2 blocks"]),
    "level of the decoder": (
        [row(tokenizer="labels", decoder="transformer", terms=terms(level="image"))],
        ["level image: decoder 'transformer' works at level patch", "linear, projector, prototypes"]),
    "level of the tokenizer": (
        [row(terms=terms(level="image"))],
        ["level image: tokenizer 'dvae' works at level patch", "Allowed: labels, projection, self_distillation, twin."]),
    "target and loss": (
        [row(base="dino", terms={"class": {"loss": "mse"}})],
        ["'self_distillation' gives distribution", "'mse' expects features", "Allowed: soft_cross_entropy."]),
    "twin with one view": (
        [row(base="simclr", views={"global": {"count": 1}})], ["tokenizer 'twin' compares views", "at least two"]),
    "whole-batch loss of patches": (
        [row(**{**LATENT, "loss": "nt_xent"}, teacher=MOVING)], ["loss 'nt_xent' compares images", "needs level: image"]),
    "small view and relative positions": (
        [row(base="dino", encoder={"type": "beit", "positions": "none", "relative_positions": "shared"})],
        ["view 'local' has share 0.5", "relative positions need share 1"]),
    "small view, masked": (
        [row(base="dino", masker="random", encoder={"masking": "token"}, views={"local": {"masked": True}})],
        ["view 'local' has share 0.5", "masks and patch terms need share 1"]),
    "small view, patch term": (
        [row(views={"x": {"share": 0.5, "masked": False}, "y": {}}, terms=terms(views=["x"]))],
        ["view 'x' has share 0.5", "masks and patch terms need share 1"]),
    "patch term of a view without masks": (
        [row(views={"x": {"masked": False}, "y": {}}, terms=terms(views=["x"]))],
        ["view 'x' has masked: false", "level patch predicts where the masker says"]),
    "mask token that is never used": (
        [row(base="dino", encoder={"masking": "token"})], ["encoder.masking must be 'none', not 'token'"]),
    "zero mask token without a mask token": (
        [row(base="dino", encoder={"zero_mask_token": True})], ["encoder.zero_mask_token", "no mask token with masking 'none'"]),
    "masking none": (
        [row(encoder={"masking": "none"})], ["'blockwise' masks patches", "encoder.masking is 'none'"]),
    "predictor without blocks": (
        [row(base="ijepa", masker="random")],
        ["'predictor' predicts blocks", "'random' gives none", "Allowed: multiblock."]),
    "cross-attention with varying counts": (
        [row(base="capi", masker="blockwise", encoder={"masking": "token"})],
        ["'cross_attention' needs the same number of masked patches", "'blockwise'", "inverse_block"]),
    "causal beit": (
        [row(base="igpt", encoder={"type": "beit"})], ["encoder.attention", "needs the encoder type 'vit'"]),
    "causal and masked": (
        [row(base="igpt", encoder={"masking": "token"})], ["encoder.attention", "masking 'none'"]),
    "start from another encoder": (
        [row(start={"row": "b"}), row("b", encoder={"dim": 64})],
        ["start.row: 'b' has another encoder (dim 64 there, 32 here)"]),
    "start from a row that is not there": ([row(start={"row": "b"})], ["start.row", "unknown row 'b'"]),
    "checkpoint file": (
        [row(pretrain={"weights": "nowhere.pt"})], ["row 'a': pretrain.weights: no file nowhere.pt"]),
    "fewer classes than the data has": (
        [row(base="supervised", terms={"label": {"tokenizer": {"classes": 5}}})],
        ["tokenizer 'labels' has 5 classes, and shapes has 12", "Set its `classes` to 12"]),
    "name of a term": ([row(terms={"items": {}})], ["terms.items", "cannot name a term"]),
    "name of a view": ([row(views={"a.b": {}}, terms={"a": {}})], ["views.a.b", "a name of letters"]),
    "one chance too many": (
        [row(base="dino", views={"global": {"blur": [0.1, 0.2, 0.3]}})],
        ["views.global.blur", "one for each of the 2 copies"]),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_work_together_is_refused_with_both_names(tmp_path, monkeypatch, case):
    from mimbench.registry import DECODERS, part_class

    class NoLast(part_class("decoder", "linear", "")):
        def build(self, dim, width, grid): ...

    NoLast.__module__ = "mimbench.no_last"  # without an origin
    monkeypatch.setitem(DECODERS.module_dict, "tests_no_last", NoLast)
    rows, words = REFUSED[case]
    message = error_of(tmp_path, rows=rows)
    for word in words:
        assert word in message


@pytest.mark.parametrize("on", ["option", "profile"])
def test_micro_batches_of_a_loss_over_the_whole_batch_are_refused_before_anything_runs(tmp_path, capsys, on):
    path, profile = written(tmp_path, rows=[row(base="simclr")]), tmp_path / "profile.yaml"
    profile.write_text("micro_batch: 4\n")
    words = ["--micro-batch", "4"] if on == "option" else ["--on", f"slurm:{profile}"]
    results = tmp_path / "results"
    assert main(["run", "grid", path, *words, "--results", str(results)]) == 2
    assert (
        "micro_batch: must not be set, as these compare the whole batch: loss 'nt_xent' of row 'a'."
        in capsys.readouterr().err
    )
    assert not results.exists()


def recipe_of(path, *sets, scale=None):
    grid = load_grid(path, sets=sets, scale=scale)
    make_plan(grid)
    return grid.rows[0].recipe


def test_the_weight_of_one_term_is_set_by_its_name(tmp_path):
    path = written(tmp_path, rows=[row(base="beit_aggregated")])
    recipe = recipe_of(path, "terms.patch.weight=0")
    assert {name: term.weight for name, term in recipe.terms.items()} == {"patch": 0, "aggregated": 1}


def test_a_row_changes_the_loss_of_one_term_alone(tmp_path):
    masked = {"masker": "random", "tokenizer": "pixels", "decoder": "linear", "loss": "mse"}
    rows = [row(**masked, terms={"near": {}, "far": {"loss": {"type": "smooth_l1", "beta": 2.0}}})]
    recipe = recipe_of(written(tmp_path, rows=rows))
    assert {name: term.loss["type"] for name, term in recipe.terms.items()} == {"near": "mse", "far": "smooth_l1"}
    assert recipe.terms["far"].loss["beta"] == 2.0
    retyped = recipe_of(written(tmp_path, rows=rows), "terms.far.loss=l1")
    assert "beta" not in retyped.terms["far"].loss  # another type takes none of the former's arguments


def test_an_argument_of_a_terms_part_overrides_the_recipes_own_part(tmp_path):
    rows = [row(masker="random", tokenizer="dvae", terms={"a": {"tokenizer": {"vocabulary": 64}}, "b": {}})]
    recipe = recipe_of(written(tmp_path, rows=rows))
    assert [recipe.terms[name].tokenizer["vocabulary"] for name in ("a", "b")] == [64, 32]
    assert recipe.terms["a"].tokenizer["hidden"] == 16  # the scale's size, as the recipe's own has it


def test_an_argument_may_be_set_before_the_type_of_a_terms_part(tmp_path):
    rows = [row(base="maskfeat", terms={"a": {}})]
    recipe = recipe_of(
        written(tmp_path, rows=rows), "terms.a.loss.beta=3", "terms.a.loss=smooth_l1", "terms.a.decoder=linear"
    )
    assert (recipe.terms["a"].loss["type"], recipe.terms["a"].loss["beta"]) == ("smooth_l1", 3)


def test_a_scale_gives_the_parts_of_terms_the_sizes_of_their_types(tmp_path):
    rows = [row(masker="random", loss="cross_entropy", decoder="linear", terms={"a": {"tokenizer": "dvae"}})]
    assert recipe_of(written(tmp_path, rows=rows, base=None)).terms["a"].tokenizer["vocabulary"] == 32


def test_a_recipes_own_values_at_a_scale_come_after_the_scale_and_before_the_row(tmp_path):
    recipe = read_yaml(ROOT / "configs/recipes/maskfeat.yaml")
    recipe["scales"] = {"smoke": {"schedule": {"steps": 7, "batch": 8}, "tokenizer": {"cells": 1}}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(recipe))
    found = recipe_of(written(tmp_path, base="own.yaml", rows=[row(schedule={"batch": 4})]))
    assert (found.schedule.steps, found.schedule.batch) == (7, 4)


def test_a_scales_terms_views_and_teacher_apply_only_where_a_recipe_has_them(tmp_path):
    scale = read_yaml(ROOT / "configs/scales/smoke.yaml")
    more = {"terms": {"class": {"weight": 3.0}}, "views": {"local": {"flip": False}}, "teacher": {"schedule": "linear"}}
    (tmp_path / "sized.yaml").write_text(yaml.safe_dump({"scale": "smoke", **scale, **more}))
    grid = load_grid(
        written(tmp_path, rows=[row("flat"), row("dino", base="dino")]), scale=str(tmp_path / "sized.yaml")
    )
    flat, dino = (row.recipe for row in grid.rows)
    assert (flat.flat, flat.views, flat.teacher) == (True, {}, None)
    assert (dino.terms["class"].weight, dino.views["local"].flip, dino.teacher.schedule) == (3.0, False, "linear")


def test_a_frozen_teachers_momentum_is_no_part_of_the_key(tmp_path):
    def names(momentum):
        teacher = {"row": "b", "keep": "student", "momentum": momentum}
        plan = make_plan(load_grid(written(tmp_path, rows=[row(**LATENT, teacher=teacher), row("b")])))
        return plan.rows["a"][0]

    assert names(0.5) == names(0.9)


def test_another_teacher_row_is_another_run(tmp_path):
    rows = [
        row(**LATENT, teacher={"row": "b", "keep": "student"}),
        row("b"),
        row("c", masker="random"),
        row("d", **LATENT, teacher={"row": "c", "keep": "student"}),
    ]
    plan = make_plan(load_grid(written(tmp_path, rows=rows)))
    assert plan.rows["a"][0]["pretrain"] != plan.rows["d"][0]["pretrain"]
    assert plan.runs[plan.rows["a"][0]["pretrain"]].spec["parents"]["teacher"] == plan.rows["b"][0]["pretrain"]
    assert plan.keys["a"] != plan.keys["d"]


def taught(name, teacher, **changes):
    return row(name, tokenizer=VQKD, tokenizer_training={"teacher": {"row": teacher}, "crop": None}, **changes)


def test_a_tokenizers_run_has_its_teachers_run_as_parent(tmp_path):
    path = written(tmp_path, seeds=2, rows=[taught("a", "b"), taught("random", "b", masker="random"), row("b"),
                                            taught("c", "d"), row("d", masker="random")])  # fmt: skip
    plan = make_plan(load_grid(path))
    for seed in (0, 1):
        runs = {name: rows[seed] for name, rows in plan.rows.items()}
        assert plan.runs[runs["a"]["tokenizer"]].spec["parents"] == {"teacher": runs["b"]["pretrain"]}
        assert "teacher" not in plan.runs[runs["a"]["tokenizer"]].spec["training"]
        assert runs["a"]["tokenizer"] == runs["random"]["tokenizer"] != runs["c"]["tokenizer"]
        assert "parents" not in plan.runs[runs["b"]["tokenizer"]].spec
    assert plan.keys["a"] != plan.keys["c"]


def test_seeds_that_share_a_tokenizer_share_its_teacher(tmp_path):
    path = written(
        tmp_path,
        seeds=4,
        nested={"pretraining": 2, "evaluation": 2},
        rows=[taught("a", "b"), row("b", masker="random")],
    )
    plan = make_plan(load_grid(path))
    assert len({plan.rows["a"][seed]["tokenizer"] for seed in range(4)}) == 1
    assert len({plan.rows["a"][seed]["pretrain"] for seed in range(4)}) == 2


def test_a_row_says_who_taught_its_tokenizer(tmp_path):
    rows = load_grid(written(tmp_path, rows=[taught("a", "b"), row("b")])).rows
    assert describe(rows[0]).endswith("steps, tokenizer teacher b")


def test_the_price_of_a_taught_tokenizer_has_its_teachers_passes(tmp_path):
    def price(depth):
        plan = make_plan(load_grid(written(tmp_path, rows=[taught("a", "b"), row("b", encoder={"depth": depth})])))
        name = plan.rows["a"][0]["tokenizer"]
        return flops_per_image(plan.runs[name], plan), plan.runs[plan.rows["b"][0]["pretrain"]].spec

    (one, shallow), (two, deep) = price(1), price(3)
    passes = [forward_flops(spec["recipe"]["encoder"], 32) for spec in (shallow, deep)]
    assert two - one == pytest.approx(passes[1] - passes[0])


@pytest.mark.parametrize("recipe", sorted(path.stem for path in (ROOT / "configs/recipes").glob("*.yaml")))
def test_every_recipe_fits_together_beside_the_teacher_that_it_names(tmp_path, recipe):
    rows = [row("dino", base="dino"), row("mine", base=recipe)]
    for scale in ("smoke", "tiny"):
        plan = make_plan(load_grid(written(tmp_path, rows=rows), scale=scale))
        named = [edge for edge in edges(plan.grid.by_name["mine"].recipe).values()]
        assert set(named) <= {"dino"}


@pytest.mark.parametrize("scale", ["photos", "small", "paper"])
def test_every_recipe_fits_together_at_the_scales_of_images_that_are_not_here(tmp_path, scale):
    recipes = sorted(path.stem for path in (ROOT / "configs/recipes").glob("*.yaml"))
    names = [
        name for name in recipes if name != "igpt_palette" or scale == "photos"
    ]  # of images as small as its tokens
    grid = load_grid(written(tmp_path, rows=[row(name, base=name) for name in names]), scale=scale)
    for made in grid.rows:
        teacher = made.recipe.encoder if made.recipe.teacher is None or made.recipe.teacher.row is None else None
        dino = next(other.recipe.encoder for other in grid.rows if other.name == "dino")
        check_terms(made.recipe, teacher or dino, lambda: 10, made.name)


def test_a_row_without_pretraining_needs_no_teacher_row(tmp_path):
    rows = [row(**LATENT, teacher={"row": "b", "keep": "student"}, pretrain=False), row("b")]
    assert set(make_plan(load_grid(written(tmp_path, rows=rows))).rows["a"][0]) == {"features", "knn"}


def test_a_mistyped_term_of_a_setting_is_refused_with_the_nearest_name(tmp_path):
    with pytest.raises(UserError, match=r"unknown term 'clas'\. Did you mean 'class'"):
        load_grid(written(tmp_path, rows=[row(base="dino")]), sets=("terms.clas.weight=2",))
