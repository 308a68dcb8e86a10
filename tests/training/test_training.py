"""The loop: killed and resumed, cut into workers, micro-batches and ranks, it computes the same."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import socket
from pathlib import Path

import pytest
import torch
from conftest import SMALL

from mimbench.config.grid import load_grid
from mimbench.config.schema import ScheduleConfig
from mimbench.errors import Interrupted, RunFailed, UserError
from mimbench.parts import Grid
from mimbench.plan.graph import make_plan
from mimbench.pretrain.fit import Place, learning_rate, load_weights, save_weights
from mimbench.pretrain.step import draw_masks, make_pretraining
from mimbench.pretrain.tokenizer import make_tokenizer
from mimbench.run.execute import execute, furthest
from mimbench.runtime import Stop
from mimbench.store.files import read_json, sha256_file, write_json
from mimbench.store.results import Store


def planned(ablations, store, *sets, row="no-tokens", kind="pretrain"):
    plan = make_plan(load_grid(ablations, scale="smoke", seeds=1, only=(row,), sets=(*SMALL, *sets)))
    name = plan.rows[row][0][kind]
    for run in plan.runs.values():
        store.run(run.name).create(run.spec)
    return store.run(name)


def trained(ablations, tmp_path, cache, label, place, *sets):
    store = Store(tmp_path / label)
    store.cache = cache
    folder = planned(ablations, store, *sets)
    execute(store, folder.name, place)
    return folder


def objective_of(ablations, row="no-tokens"):
    plan = make_plan(load_grid(ablations, scale="smoke", seeds=1, only=(row,), sets=SMALL))
    recipe = plan.runs[plan.rows[row][0]["pretrain"]].spec["recipe"]
    return make_pretraining(recipe, make_tokenizer(recipe["tokenizer"], Grid(8, 8, 4), 0), 0)


def same(first, second):
    one, two = (load_weights(f.work / "weights.pt") for f in (first, second))
    assert one.keys() == two.keys()
    return all(torch.equal(one[k], two[k]) for k in one)


@pytest.fixture
def reference(ablations, tmp_path, cache):
    return trained(ablations, tmp_path, cache, "reference", Place())


def test_the_masks_of_a_step_are_those_of_its_number_whichever_were_drawn_before(ablations):
    objective = objective_of(ablations, "beit")
    for step in (0, 1, 9, 8, 3, 3, 17, 4):
        alone = draw_masks(objective.masker, 16, objective.encoder, "masked", 0, step)
        for masks in (objective.masks(16, step), objective_of(ablations, "beit").masks(16, step)):
            assert torch.equal(masks.hidden, alone.hidden)
            assert torch.equal(masks.predicted, alone.predicted)
    assert objective.masks(4, 5).hidden.shape == (4, 64)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_loader_workers_changes_nothing(ablations, tmp_path, cache, reference, workers):
    assert same(reference, trained(ablations, tmp_path, cache, "workers", Place(workers=workers)))


def test_another_seed_gives_other_weights(ablations, tmp_path, cache, reference):
    store = Store(tmp_path / "other")
    store.cache = cache
    plan = make_plan(load_grid(ablations, scale="smoke", seeds=2, only=("no-tokens",), sets=SMALL))
    name = plan.rows["no-tokens"][1]["pretrain"]
    store.run(name).create(plan.runs[name].spec)
    execute(store, name, Place())
    assert not same(reference, store.run(name))


def test_micro_batches_give_the_same_weights_up_to_the_order_of_sums(ablations, tmp_path, cache, reference):
    other = trained(ablations, tmp_path, cache, "micro", Place(micro_batch=4))
    one, two = (load_weights(f.work / "weights.pt") for f in (reference, other))
    assert all(torch.allclose(one[k], two[k], atol=2e-5) for k in one)


@pytest.mark.parametrize(
    "sets", [(), ("encoder.type=beit", "encoder.relative_positions=shared", "encoder.drop_path=0.2")]
)
def test_activations_computed_anew_in_the_backward_pass_change_no_bit(ablations, tmp_path, cache, sets):
    kept, anew = (
        trained(ablations, tmp_path, cache, str(recompute), Place(recompute=recompute), *sets)
        for recompute in (False, True)
    )
    assert same(kept, anew)


class StopAt(Stop):
    """Asks to stop once a step has been made."""

    def __call__(self, step: int, steps: int) -> None:
        if step == self.at:
            self.ask()


def test_a_checkpoint_that_cannot_be_read_is_named_and_fails_that_run(ablations, tmp_path, cache):
    store = Store(tmp_path / "torn")
    store.cache = cache
    folder = planned(ablations, store)
    folder.work.mkdir()
    (folder.work / "checkpoint.pt").write_bytes(b"PK torn")
    with pytest.raises(UserError, match=r"checkpoint\.pt: not readable as weights"):
        execute(store, folder.name, Place())
    assert "Move it away to have them made again" in folder.last_failure()["message"]
    assert folder.state() == "failed"


@pytest.mark.parametrize("at", [1, 3, 5])
def test_stopped_and_resumed_it_ends_in_the_same_bits_and_the_same_curve(ablations, tmp_path, cache, reference, at):
    store = Store(tmp_path / "stopped")
    store.cache = cache
    folder = planned(ablations, store)
    stop = StopAt()
    stop.at = at
    with pytest.raises(Interrupted):
        execute(store, folder.name, Place(stop=stop, progress=stop))
    assert folder.state() == "stopped"
    execute(store, folder.name, Place())
    assert same(reference, folder)
    assert (folder.path / "curve.csv").read_bytes() == (reference.path / "curve.csv").read_bytes()


def _train_in_process(root, cache, name, workers):
    torch.set_num_threads(1)
    store = Store(root)
    store.cache = Path(cache)
    execute(store, name, Place(checkpoint_seconds=0.0, workers=workers))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_killed_at_random_moments_and_resumed_it_ends_in_the_same_bits(ablations, tmp_path, cache, workers):
    sets = ("schedule.steps=250",)
    reference = trained(ablations, tmp_path, cache, "reference", Place(), *sets)
    store = Store(tmp_path / "killed")
    store.cache = cache
    folder = planned(ablations, store, *sets)
    context, rng, kills = multiprocessing.get_context("fork"), random.Random(workers), 0
    while not folder.done():
        process = context.Process(target=_train_in_process, args=(str(store.root), str(cache), folder.name, workers))
        process.start()
        process.join(rng.uniform(0.2, 0.7) if kills < 6 else None)
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            kills += 1
    assert kills >= 3
    assert same(reference, folder)
    assert (folder.path / "curve.csv").read_bytes() == (reference.path / "curve.csv").read_bytes()


def _rank(rank, world, port, root, cache, name, failures, at=None):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(world))
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=world)
    store = Store(root)
    store.cache = Path(cache)
    stop = StopAt()
    stop.at = at if rank == 1 else None  # one rank is told; both stop
    try:
        execute(store, name, Place(rank=rank, world=world, stop=stop, progress=stop))
    except Interrupted:
        assert at is not None
    except BaseException as error:
        failures.put(f"rank {rank}: {error!r}")
        raise
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("row", ["no-tokens", "recover-all"])
def test_two_processes_train_as_one_does_up_to_the_order_of_sums(ablations, tmp_path, cache, row):
    single, double = Store(tmp_path / "one"), Store(tmp_path / "two")
    single.cache = double.cache = cache
    for store in (single, double):
        folder = planned(ablations, store, row=row)
        if row == "recover-all":
            execute(store, planned(ablations, store, row=row, kind="tokenizer").name, Place())
    execute(single, folder.name, Place())
    _as_two(double, cache, folder.name)
    one, two = (load_weights(s.run(folder.name).work / "weights.pt") for s in (single, double))
    assert all(torch.allclose(one[k], two[k], atol=2e-5) for k in one)
    curves = [(s.run(folder.name).path / "curve.csv").read_text().split("\n")[1].split(",") for s in (single, double)]
    assert float(curves[0][1]) == pytest.approx(float(curves[1][1]), rel=1e-4)


def test_two_processes_stopped_by_one_of_them_go_on_to_the_same_bits_and_curve(ablations, tmp_path, cache):
    straight, stopped = Store(tmp_path / "straight"), Store(tmp_path / "stopped")
    for store in (straight, stopped):
        store.cache = cache
        folder = planned(ablations, store, row="no-tokens")
    _as_two(straight, cache, folder.name)
    _as_two(stopped, cache, folder.name, at=1)
    halted = stopped.run(folder.name)
    assert halted.state() == "stopped"
    assert len(torch.load(halted.work / "checkpoint.pt", weights_only=True)["loss_sums"]) == 2
    _as_two(stopped, cache, folder.name)
    assert same(straight.run(folder.name), halted)
    assert (halted.path / "curve.csv").read_bytes() == (straight.run(folder.name).path / "curve.csv").read_bytes()


def _as_two(store, cache, name, at=None):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    failures = context.Queue()
    arguments = [(rank, 2, port, str(store.root), str(cache), name, failures, at) for rank in range(2)]
    ranks = [context.Process(target=_rank, args=a) for a in arguments]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(120)
    assert failures.empty(), failures.get()


def test_the_masks_of_the_ranks_are_cut_from_those_of_the_whole_batch(ablations):
    objective = objective_of(ablations)
    raw = torch.rand(8, 3, 32, 32)
    whole = objective.prepare({"raw": raw}, 5, Place())[0]["masks"]
    halves = [
        objective.prepare({"raw": part}, 5, Place(rank=r, world=2))[0]["masks"] for r, part in enumerate(raw.split(4))
    ]
    assert torch.equal(whole.hidden, torch.cat([h.hidden for h in halves]))
    assert all(h.total == whole.total for h in halves)


def test_a_loss_that_is_no_number_fails_the_run_with_its_reason(ablations, tmp_path, cache):
    store = Store(tmp_path / "nan")
    store.cache = cache
    folder = planned(ablations, store, "schedule.lr=1e30", "schedule.clip=null")
    with pytest.raises(RunFailed, match="lower learning rate"):
        execute(store, folder.name, Place())
    assert folder.state() == "failed"


def test_a_changed_parent_is_named(ablations, tmp_path, cache):
    store = Store(tmp_path / "parents")
    store.cache = cache
    parent = planned(ablations, store)
    execute(store, parent.name, Place())
    (parent.work / "weights.pt").write_bytes(b"something else")
    child = planned(ablations, store, kind="knn")
    with pytest.raises(ValueError, match="sha256 differs"):
        execute(store, child.name, Place())


def test_what_was_begun_from_other_weights_of_a_parent_is_begun_again(ablations, tmp_path, cache):
    store = Store(tmp_path / "parents")
    store.cache = cache
    parent = planned(ablations, store)
    execute(store, parent.name, Place())
    child = planned(ablations, store, kind="finetune")
    stop = StopAt()
    stop.at = 3
    with pytest.raises(Interrupted):
        execute(store, child.name, Place(stop=stop, progress=stop))
    assert "checkpoint.pt" in " ".join(furthest(child))
    state = {name: value + 1 for name, value in load_weights(parent.work / "weights.pt").items()}  # another machine's
    save_weights(state, parent.work / "weights.pt")
    result = read_json(parent.path / "result.json")
    sha = sha256_file(parent.work / "weights.pt")
    write_json(parent.path / "result.json", {**result, "weights_sha256": sha})
    execute(store, child.name, Place())
    assert [attempt["found"] for attempt in child.attempts()] == [[], []]
    assert child.result()["parents"]["encoder"]["weights_sha256"] == sha


def test_a_run_that_is_done_is_not_done_again(ablations, tmp_path, cache, reference):
    before = len(list((reference.path / "attempts").iterdir()))
    store = Store(tmp_path / "reference")
    assert execute(store, reference.name, Place()) == "done"
    assert len(list((reference.path / "attempts").iterdir())) == before


def test_a_run_under_way_is_left_to_its_owner(ablations, tmp_path, cache):
    store = Store(tmp_path / "claimed")
    store.cache = cache
    folder = planned(ablations, store)
    claim = folder.claim()
    assert execute(store, folder.name, Place()) == "taken"
    claim.release()


def test_the_learning_rate_warms_up_from_zero_and_falls_by_half_a_cosine():
    schedule = ScheduleConfig(steps=110, warmup=10, lr=1.0, min_lr=0.1)
    assert learning_rate(schedule, 0) == 0
    assert learning_rate(schedule, 5) == pytest.approx(0.5)
    assert learning_rate(schedule, 10) == pytest.approx(1.0)
    assert learning_rate(schedule, 60) == pytest.approx(0.55)
    assert learning_rate(schedule, 110) == pytest.approx(0.1)


def test_no_step_but_a_logged_one_reads_a_value_back(ablations, monkeypatch):
    """A `.item()` or `float()` a step would make the CPU wait for the GPU each time."""
    from mimbench.pretrain import fit as module

    objective = objective_of(ablations)
    trainee = module.Trainee(objective, ScheduleConfig(precision="fp32"), 0, Place())
    optimizer = torch.optim.AdamW(objective.parameters(), fused=True)  # as on a GPU: the plain one reads its step
    wrapper = module.OptimWrapper(optimizer)
    trainee.train_step({"raw": torch.rand(8, 3, 32, 32)}, wrapper)  # constants are made once
    reads = []
    for name in ("tensor", "as_tensor"):  # a constant carried to the GPU is waited for
        original = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *a, f=original, **k: reads.append(1) or f(*a, **k))
    for name in ("item", "__float__", "__bool__", "__int__", "tolist"):
        original = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda self, f=original: reads.append(1) or f(self))
    trainee.train_step({"raw": torch.rand(8, 3, 32, 32)}, wrapper)
    assert not reads
    float(trainee.loss_sum)
    assert reads  # the trap works


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_step_on_a_gpu_never_waits_for_it(ablations):
    from mimbench.pretrain import fit as module

    objective = objective_of(ablations)
    trainee = module.Trainee(objective, ScheduleConfig(precision="bf16"), 0, Place(device=torch.device("cuda")))
    wrapper = module.OptimWrapper(torch.optim.AdamW(objective.parameters(), fused=True))
    raw = torch.rand(8, 3, 32, 32).pin_memory()
    trainee.train_step({"raw": raw}, wrapper)
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainee.train_step({"raw": raw}, wrapper)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_tensorboard_curves_are_written_where_they_are_asked_for(ablations, tmp_path, cache):
    pytest.importorskip("tensorboard", reason="tensorboard is an extra: pip install mimbench[tensorboard]")
    folder = trained(ablations, tmp_path, cache, "board", Place(tensorboard=True))
    assert list(folder.work.rglob("events.out.tfevents.*"))
