"""Files of a training that were damaged: none gives a wrong number, and none without need keeps a run from ending."""

from __future__ import annotations

import json
import math

import pytest
import torch
from test_evals import SMALL, settings
from test_training import StopAt, planned, same, trained

from mimbench.config.schema import DataConfig
from mimbench.errors import Interrupted, RunFailed, UserError
from mimbench.evals import finetune
from mimbench.evals.common import EncoderUnderTest
from mimbench.pretrain.curve import Curve
from mimbench.run import training
from mimbench.run.execute import execute
from mimbench.runtime import Runtime
from mimbench.store.records import read_record, write_record
from mimbench.store.results import Store
from mimbench.store.weights import load_weights, save_weights

LINES = b"step,loss,lr,grad_norm\n50,3,0.1,nan\n100,2,0.1,nan\n150,1,0.1,nan\n"
DAMAGE = {
    "missing": None, "empty": b"", "zeros": bytes(100), "garbage": b"\xff\xfe\x00garbage\n\xff", "no header": LINES[23:],
    "text": b"of somebody else\n",
}  # fmt: skip


def damage(path, content):
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_bytes(content)


def go_on(path, step):
    Curve(path, step, Runtime()).log(200, torch.tensor(25.0), 0.1, None, {})
    return path.read_text()


@pytest.mark.parametrize("content", DAMAGE.values(), ids=DAMAGE)
def test_a_curve_that_cannot_be_read_is_started_again_and_the_log_says_so(tmp_path, capsys, content):
    damage(tmp_path / "curve.csv", content)
    assert go_on(tmp_path / "curve.csv", 150) == "step,loss,lr,grad_norm\n200,0.5,0.1,nan\n"
    assert "curve.csv: 0 of the 3 lines up to step 150 can be read" in capsys.readouterr().err


@pytest.mark.parametrize(("whole", "damaged"), [(b"100,2,0.1,nan", b"100,\xff,0.1"), (b"150,1,0.1,nan\n", b"150,1")])
def test_of_a_damaged_curve_what_can_be_read_is_kept(tmp_path, capsys, whole, damaged):
    (tmp_path / "curve.csv").write_bytes(LINES.replace(whole, damaged))
    found = go_on(tmp_path / "curve.csv", 150).encode()
    kept = LINES.replace(whole if whole.endswith(b"\n") else whole + b"\n", b"")
    assert found == kept + b"200,0.5,0.1,nan\n"
    assert "2 of the 3 lines" in capsys.readouterr().err


def test_a_curve_that_was_torn_behind_the_checkpoint_lacks_nothing(tmp_path, capsys):
    (tmp_path / "curve.csv").write_bytes(LINES + b"200,0")
    assert go_on(tmp_path / "curve.csv", 199).encode() == LINES + b"200,0.5,0.1,nan\n"
    assert not capsys.readouterr().err


@pytest.mark.parametrize("name", ["missing", "garbage"])
def test_neither_a_resumed_nor_an_ended_training_needs_its_curve(ablations, tmp_path, cache, monkeypatch, name):
    reference = trained(ablations, tmp_path, cache, "reference", Runtime())
    store = Store(tmp_path / "damaged")
    store.cache = cache
    folder, stop, health = planned(ablations, store), StopAt(), training.health
    stop.at = 3
    with pytest.raises(Interrupted):
        execute(store, folder.name, Runtime(stop=stop, progress=stop))
    damage(folder.path / "curve.csv", DAMAGE[name])

    def killed(*_):
        raise RunFailed("killed between its last step and its result")

    monkeypatch.setattr(training, "health", killed)
    with pytest.raises(RunFailed, match="killed"):
        execute(store, folder.name, Runtime())
    damage(folder.path / "curve.csv", DAMAGE[name])
    monkeypatch.setattr(training, "health", health)
    execute(store, folder.name, Runtime())
    assert same(reference, folder)
    assert folder.result() == reference.result()
    assert math.isfinite(folder.result()["metrics"]["loss"])


def other_names(state):
    return {**state, "objective": {f"old.{name}": value for name, value in state["objective"].items()}}


def other_shapes(state):
    return {**state, "objective": {name: torch.zeros(3, 2) for name in state["objective"]}}


def other_optimizer(state):
    return {**state, "optimizer": {"state": {}, "param_groups": []}}


def without_its_step(state):
    return {key: value for key, value in state.items() if key != "step"}


@pytest.mark.parametrize(
    "changed", [other_names, other_shapes, other_optimizer, without_its_step, lambda state: [1, 2]]
)
def test_a_checkpoint_of_another_version_is_named_in_one_sentence(ablations, tmp_path, cache, changed):
    store = Store(tmp_path / "other")
    store.cache = cache
    folder, stop = planned(ablations, store), StopAt()
    stop.at = 3
    with pytest.raises(Interrupted):
        execute(store, folder.name, Runtime(stop=stop, progress=stop))
    path = folder.work / "checkpoint.pt"
    state = load_weights(path)
    save_weights(changed(state), path)
    with pytest.raises(UserError, match=r"checkpoint\.pt: not what this version saves for this run: .* Move it away"):
        execute(store, folder.name, Runtime())
    save_weights(other_names(state)["objective"], folder.work / "final.pt")
    with pytest.raises(UserError, match=r"final\.pt: not what this version saves"):
        execute(store, folder.name, Runtime())


EDITED = json.dumps({"val": 99.0, "1": 99.0}).encode()


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff", EDITED, bytes(20)], ids=["empty", "torn", "bytes", "edited", "zeros"]
)
def test_a_damaged_held_out_score_is_measured_again(tmp_path, cache, capsys, content):
    counts = {"labeled": 64, "test": 40, "val": 32}
    under_test = EncoderUnderTest(SMALL, None, None, "mean", 0, DataConfig(), "shapes", counts, cache, tmp_path)
    chosen = settings("finetune", learning_rates=[0.001, 0.002], epochs=1)
    before = finetune.evaluate(under_test, chosen, Runtime())
    note = tmp_path / "lr-0.002" / "val.json"
    note.write_bytes(content)
    assert finetune.evaluate(under_test, chosen, Runtime()) == before
    assert "val.json: damaged; made again" in capsys.readouterr().err
    assert read_record(note) == before["values"]["by_lr"]["0.002"]


@pytest.mark.parametrize("content", [b"", EDITED, None], ids=["empty", "edited", "missing"])
def test_scores_by_epoch_that_are_damaged_fail_no_fine_tuning(tmp_path, cache, content):
    counts = {"labeled": 64, "test": 40, "val": 32}
    under_test = EncoderUnderTest(SMALL, None, None, "mean", 0, DataConfig(), "shapes", counts, cache, tmp_path)
    chosen = settings("finetune", learning_rates=[0.001], epochs=1, curve=True)
    before = finetune.evaluate(under_test, chosen, Runtime())
    damage(tmp_path / "lr-0.001" / "by_epoch.json", content)
    after = finetune.evaluate(under_test, chosen, Runtime())
    assert len(before["values"].pop("by_epoch")) == 1
    assert after["values"].pop("by_epoch") == []
    assert after == before


def test_a_parent_without_what_its_children_need_is_named_in_one_sentence(ablations, tmp_path, cache):
    store = Store(tmp_path / "parents")
    store.cache = cache
    kinds = ("pretrain", "features", "linear_probe", "finetune")
    folders = dict(zip(kinds, (planned(ablations, store, kind=kind) for kind in kinds), strict=True))
    for kind in kinds[:3]:
        execute(store, folders[kind].name, Runtime())
    for parent, key, child in (("linear_probe", "values", "finetune"), ("pretrain", "weights_sha256", "features")):
        path = folders[parent].path / "result.json"
        result = read_record(path)
        write_record(path, {k: v for k, v in result.items() if k != key})
        what = "chosen pooling" if key == "values" else key
        if child == "features":
            (folders[child].path / "result.json").unlink()
        with pytest.raises(UserError, match=rf"{parent}-.*result\.json: has no {what}, .* Move .*{parent}-"):
            execute(store, folders[child].name, Runtime())
        write_record(path, result)
