"""--set: of recipes, and of protocols."""

from __future__ import annotations

from pathlib import Path

import pytest
from grids import written

from mimbench import protocols
from mimbench.config.grid import load_grid
from mimbench.errors import UserError
from mimbench.plan.graph import make_plan

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("protocols.knn.neighbor=[1]", "Did you mean 'neighbors'"),
        ("protocols.knn.neighbors=[few]", "must be an integer"),
        ("protocols.knn.neighbors=[]", "at least one value"),
        ("protocols.knn.neighbors=[0, 5]", r"neighbors\.0: must be at least 1"),
        ("protocols.knn.neighbors=[5, 5000]", "at most 96 each, the labeled images of scale smoke, not 5000"),
        ("protocols.knn.temperature=0", "at least 0.0125"),
        ("protocols.finetune.learning_rates=[0, 1e-3]", "greater than 0"),
        ("protocols.finetune.learning_rates=[1e-3, 0.00100000001]", "different"),
        ("protocols.finetune.min_lr_ratio=2", "between 0 and 1"),
        ("protocols.finetune.warmup=3", "between 0 and 1"),
        ("protocols.finetune.weight_decay=-1", "at least 0"),
        ("protocols.finetune.betas=[0.9]", "a list of 2"),
        ("protocols.finetune.betas=[0.9, 1]", "less than 1"),
        ("protocols.finetune.layer_decay=0", "greater than 0"),
        ("protocols.finetune.drop_path=3", "less than 1"),
        ("protocols.finetune.label_smoothing=5", "less than 1"),
        ("protocols.finetune.clip=0", r"clip: must be greater than 0"),
        ("protocols.finetune.epochs=0", "at least 1"),
        ("protocols.segmentation.batch=1", "at least 2"),
        ("protocols.linear_probe_mae.batch=1", "at least 2"),
        ("protocols.linear_probe_beit.area=[1.0, 0.3]", "the smallest share, then the largest"),
        ("protocols.finetune.repeats=3000", "between 1 and 16"),
        ("protocols.segmentation.channels=0", "at least 1"),
        ("protocols.segmentation.auxiliary_channels=0", "at least 1"),
        ("protocols.segmentation.first_class_weight=-1", "at least 0"),
        ("protocols.segmentation.crop=0", r"crop: must be at least 1"),
        ("protocols.segmentation.resize=[32]", "a list of 2"),
        ("protocols.segmentation.rescales=[1]", r"or \[2, 1, 0.5, 0.25\], not \[1\]"),
        ("protocols.segmentation.rescales=[0.25, 0.5, 1, 2]", r"or \[2, 1, 0.5, 0.25\]"),
        ("protocols.finetune.precision=bf61", "Did you mean 'bf16'"),
        ("protocols.finetune.batch=0", "at least 1"),
        ("protocols.segmentation.crop=banana", "must be an integer"),
        ("protocols.segmentation.crop=18", "4 does not divide the crop of protocol 'segmentation', 18"),
        ("protocols.segmentation.head=setr", "Did you mean 'setr_pup'"),
        ("protocols.segmentation.test_ratios=[]", "at least one value"),
        ("protocols.segmentation.steps=0", "at least 1"),
        ("protocols.finetune.rand_augment=augment", "timm's words for RandAugment"),
        ("protocols.finetune.mixup=-1", "at least 0"),
        ("protocols.finetune.ema=1", "less than 1"),
        ("protocols.segmentation.resize=3", "must be a list"),
        ("tokenizer_training.crop=15", "not a multiple of the patch"),
        ("data.size=0", "--set data.size: must be at least 1"),
        ("data.shift=-3", "--set data.shift: must be at least 0"),
        ("data.shift=32", r"less than size \(32 pixels\)"),
        ("data.crop=[3, 5]", "--set data.crop.0: must be greater than 0 and at most 1"),
        ("data.crop=[0.5, 0.2]", "the smallest area, then the largest"),
        ("data.jitter=2", "--set data.jitter: must be between 0 and 1"),
        ("encoder.mlp_ratio=0.001", "--set encoder.mlp_ratio: 0.001 leaves no feature"),
        ("encoder.layer_scale=0", "--set encoder.layer_scale: must be greater than 0"),
        ("schedule.min_lr=1", "--set schedule.min_lr: must be at most lr"),
        ("tokenizer_training.images=0", "--set tokenizer_training.images: must be at least 1"),
        ("schedule.steps_multiplier=0", "--set schedule.steps_multiplier: must be between 0.001 and 1000, not 0"),
        ("schedule.longer=2", "Since 0.2 it is steps_multiplier"),
        ("loss.over=all", "Since 0.2 it is the masker's `predict`"),
        ("protocols.knn.neighbours=[5]", "Since 0.2 it is neighbors"),
        ("schedule.over=1", "unknown key 'over'. Allowed"),
        ("tokenizer_training.steps_multiplier=2", "unknown key 'steps_multiplier'"),
        ("data.name=2020-13-45", "not readable as YAML"),
        ("data.name=!!bool perhaps", "not readable as YAML"),
        ("data.name=!!timestamp x", "not readable as YAML"),
        ('data.name=!!int ""', "not readable as YAML"),
        ("data.name=" + "[" * 3000, "not readable as YAML"),
    ],
)
def test_a_wrong_setting_is_refused(tmp_path, setting, words):
    with pytest.raises(UserError, match=words):
        make_plan(
            load_grid(
                written(
                    tmp_path, protocols=["knn", "finetune", "segmentation", "linear_probe_beit", "linear_probe_mae"]
                ),
                sets=(setting,),
            )
        )


def test_mixing_pairs_needs_an_even_batch(tmp_path):
    sets = ("protocols.finetune.mixup=0.8", "protocols.finetune.batch=33")
    with pytest.raises(UserError, match=r"--set protocols\.finetune\.batch: must be even"):
        make_plan(load_grid(written(tmp_path, protocols=["finetune"]), sets=sets))


def test_a_protocol_setting_takes_its_defaults_type(tmp_path):
    sets = (
        "protocols.finetune.learning_rates=[1e-3, 2]",
        "protocols.finetune.clip=null",
        "protocols.finetune.weight_decay=0",
    )
    plan = make_plan(load_grid(written(tmp_path, protocols=["finetune"]), sets=sets))
    settings = plan.columns[0].settings
    assert (settings["learning_rates"], settings["clip"], settings["weight_decay"]) == ([0.001, 2.0], None, 0.0)


def test_the_shipped_settings_are_in_their_ranges():
    for scale in sorted((ROOT / "configs" / "scales").glob("*.yaml")):
        for name, stated in load_grid("ablations", scale=scale.stem).scale_settings.items():
            settings = protocols.load(name, stated, "test").settings
            assert settings == {key: protocols.checked(name, key, value, key) for key, value in settings.items()}


def test_rescales_for_patches_of_16_pixels_can_be_set_and_writing_the_default_out_is_the_same_run(tmp_path):
    path = written(tmp_path, protocols=["segmentation"])
    plain = make_plan(load_grid(path))
    for rescales, same in (("[2, 1.0, 5e-1, 0.25]", True), ("[4, 2, 1, 0.5]", False)):
        plan = make_plan(load_grid(path, sets=(f"protocols.segmentation.rescales={rescales}",)))
        assert (plan.columns[0].fingerprint == plain.columns[0].fingerprint) is same
