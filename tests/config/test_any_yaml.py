"""Whatever YAML holds: a plan, or an error of one sentence."""

from __future__ import annotations

from dataclasses import fields

import yaml
from conftest import ROOT
from grids import GRID, written
from hypothesis import given, settings
from hypothesis import strategies as st

from mimbench import protocols
from mimbench.config.grid import load_grid
from mimbench.config.merge import read_yaml
from mimbench.config.scales import ScaleFile
from mimbench.config.schema import RECIPE_KEYS, DataConfig, EncoderConfig, TokenizerTraining, WrittenSchedule
from mimbench.config.terms import TeacherConfig, TermConfig, ViewConfig
from mimbench.errors import UserError
from mimbench.kinds import PROTOCOLS
from mimbench.plan.graph import make_plan

huge = st.sampled_from([10**13, 2**63, -(2**63), 10**23, 10**399])
scalars = st.none() | st.booleans() | st.integers() | huge | st.floats() | st.text(max_size=8)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(scalars, inner, max_size=3),
    max_leaves=8,
)


SMOKE = read_yaml(ROOT / "configs/scales/smoke.yaml")
SETTINGS = [
    *RECIPE_KEYS,
    *(f"data.{key.name}" for key in fields(DataConfig)),
    *(f"encoder.{key.name}" for key in fields(EncoderConfig)),
    *(f"tokenizer_training.{key.name}" for key in fields(TokenizerTraining)),
    *(f"teacher.{key.name}" for key in fields(TeacherConfig)),
    *(f"views.{view}.{key.name}" for view in ("global", "", "a.b") for key in fields(ViewConfig)),
    *(f"terms.{term}.{key.name}" for term in ("class", "items", "") for key in fields(TermConfig)),
    "terms.class",
    "views.global",
    "terms.class.decoder.same_as",
    "terms.class.loss.type",
    "start.row",
    "pretrain.weights",
    "pretrain.finetuned",
    *(f"schedule.{key.name}" for key in fields(WrittenSchedule)),
    *(
        f"protocols.{p}.{key}"
        for p in PROTOCOLS
        for key in protocols.load(p, SMOKE["protocols"].get(p, {}), "").settings
    ),
]
PLACES = st.one_of(
    st.tuples(st.just("grid"), st.sampled_from([*GRID, "axes", "primary", "reference", "title", "note"])),
    st.tuples(st.just("row"), st.sampled_from([*RECIPE_KEYS, "base", "label", "paper"])),
    st.tuples(st.just("scale"), st.sampled_from([*RECIPE_KEYS, *(key.name for key in fields(ScaleFile))])),
    st.tuples(st.just("set"), st.sampled_from(SETTINGS)),
    st.tuples(st.just("set on dino"), st.sampled_from(SETTINGS)),
)


@settings(max_examples=400)
@given(place=PLACES, value=anything | st.dictionaries(st.sampled_from(["type", "ratio", "steps", "lr"]), anything))
def test_no_value_gives_a_traceback(tmp_path_factory, place, value):
    folder, (where, key) = tmp_path_factory.mktemp("grids"), place
    changes = {"protocols": list(PROTOCOLS)}
    if where == "grid":
        changes[key] = value
    if where == "row":
        changes["rows"] = [{"name": "a", key: value}]
    if where == "set on dino":
        changes["base"], changes["rows"] = "dino", [{"name": "a"}]
    (folder / "own.yaml").write_text(yaml.safe_dump({**SMOKE, **({key: value} if where == "scale" else {})}))
    sets = (f"{key}={yaml.safe_dump(value, default_flow_style=True)}",) if where.startswith("set") else ()
    try:
        make_plan(
            load_grid(written(folder, **changes), scale=None if key == "scale" else str(folder / "own.yaml"), sets=sets)
        )
    except UserError:
        return
