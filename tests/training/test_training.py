"""The training loop computes the same when killed and resumed, and across workers, micro-batches and ranks."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import socket
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import SMALL

from mimbench import registry
from mimbench.config.grid import load_grid
from mimbench.config.schema import ScheduleConfig
from mimbench.data.sampling import generator
from mimbench.errors import Interrupted, RunFailed, UserError
from mimbench.parts import PatchGrid
from mimbench.plan.graph import make_plan
from mimbench.pretrain.fit import fit
from mimbench.pretrain.masks import StepMasks
from mimbench.pretrain.step import make_pretraining
from mimbench.pretrain.terms import Term
from mimbench.pretrain.tokenizer import make_tokenizer
from mimbench.run.execute import execute, progress_found
from mimbench.runtime import Runtime, Stop
from mimbench.store.files import sha256_file
from mimbench.store.records import read_record, write_record
from mimbench.store.results import Store
from mimbench.store.weights import load_weights, save_weights

CPU = torch.device("cpu")


def planned(ablations, store, *sets, row="no-tokens", kind="pretrain"):
    plan = make_plan(load_grid(ablations, scale="smoke", seeds=1, only=(row,), sets=(*SMALL, *sets)))
    name = plan.rows[row][0][kind]
    for run in plan.runs.values():
        store.run(run.name).create(run.spec)
    return store.run(name)


def trained(ablations, tmp_path, cache, label, runtime, *sets):
    store = Store(tmp_path / label)
    store.cache = cache
    folder = planned(ablations, store, *sets)
    execute(store, folder.name, runtime)
    return folder


def objective_of(ablations, row="no-tokens"):
    plan = make_plan(load_grid(ablations, scale="smoke", seeds=1, only=(row,), sets=SMALL))
    recipe = plan.runs[plan.rows[row][0]["pretrain"]].spec["recipe"]
    grid = PatchGrid.of(recipe["data"]["size"], recipe["encoder"]["patch"])
    tokenizer = make_tokenizer(recipe["tokenizer"], grid, 0)
    state = {"tokenizer": tokenizer.state_dict()} if tokenizer.trained else {}
    return make_pretraining(recipe, state, 0, CPU)


def same(first, second):
    one, two = (load_weights(f.work / "weights.pt") for f in (first, second))
    assert one.keys() == two.keys()
    return all(torch.equal(one[k], two[k]) for k in one)


@pytest.fixture
def reference(ablations, tmp_path, cache):
    return trained(ablations, tmp_path, cache, "reference", Runtime())


@pytest.mark.parametrize("average", ["positions", "images"])
def test_a_loss_may_let_images_count_alike(average):
    grid = PatchGrid(8, 8, 4)
    masks = StepMasks(registry.build("masker", {"type": "blockwise"}), grid, drop=False, seed=0, weighted=True).whole(
        4, 0
    )
    spec = {
        "tokenizer": {"type": "any"},
        "loss": {"type": "soft_cross_entropy", "temperature": 1.0, "average": average},
    }
    term = Term("only", spec, {"image": "image"}, None, "only")
    prediction, target = torch.randn(len(masks.predicted), 5), torch.randn(4, 64, 5).softmax(-1)
    found = term.values(prediction, target, masks, 0).sum() / term.count(masks, 4)
    each = F.cross_entropy(prediction, target.flatten(0, 1)[masks.predicted], reduction="none")
    image = masks.predicted // 64
    assert len(image.bincount().unique()) > 1
    means = torch.stack([each[image == index].mean() for index in range(4)])
    torch.testing.assert_close(found, each.mean() if average == "positions" else means.mean())


def test_the_masks_of_a_step_follow_from_its_number_whichever_were_drawn_before(ablations):
    masks = objective_of(ablations, "beit").masks["image"]
    for step in (0, 1, 9, 8, 3, 3, 17, 4):
        again, alone = masks.whole(16, step), objective_of(ablations, "beit").masks["image"].whole(16, step)
        assert torch.equal(again.masked, alone.masked)
        assert torch.equal(again.predicted, alone.predicted)
        assert torch.equal(alone.masked, masks.masker(16, (8, 8), generator(0, "masks", step)))
    assert masks.whole(4, 5).masked.shape == (4, 64)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_loader_workers_changes_no_bit(ablations, tmp_path, cache, reference, workers):
    assert same(reference, trained(ablations, tmp_path, cache, "workers", Runtime(workers=workers)))


def test_another_seed_gives_other_weights(ablations, tmp_path, cache, reference):
    store = Store(tmp_path / "other")
    store.cache = cache
    plan = make_plan(load_grid(ablations, scale="smoke", seeds=2, only=("no-tokens",), sets=SMALL))
    name = plan.rows["no-tokens"][1]["pretrain"]
    store.run(name).create(plan.runs[name].spec)
    execute(store, name, Runtime())
    assert not same(reference, store.run(name))


def test_micro_batches_give_the_same_weights_up_to_the_order_of_sums(ablations, tmp_path, cache, reference):
    other = trained(ablations, tmp_path, cache, "micro", Runtime(micro_batch=4))
    one, two = (load_weights(f.work / "weights.pt") for f in (reference, other))
    assert all(torch.allclose(one[k], two[k], atol=2e-5) for k in one)


@pytest.mark.parametrize(
    "sets", [(), ("encoder.type=beit", "encoder.relative_positions=shared", "encoder.drop_path=0.2")]
)
def test_activation_checkpointing_changes_no_bit(ablations, tmp_path, cache, sets):
    kept, recomputed = (
        trained(ablations, tmp_path, cache, str(on), Runtime(activation_checkpointing=on), *sets)
        for on in (False, True)
    )
    assert same(kept, recomputed)


class StopAt(Stop):
    """Requests a stop after a given step."""

    def __call__(self, step: int, steps: int) -> None:
        if step == self.at:
            self.request()


def test_a_checkpoint_that_cannot_be_read_is_named_and_fails_that_run(ablations, tmp_path, cache):
    store = Store(tmp_path / "torn")
    store.cache = cache
    folder = planned(ablations, store)
    folder.work.mkdir()
    (folder.work / "checkpoint.pt").write_bytes(b"PK torn")
    with pytest.raises(UserError, match=r"checkpoint\.pt: not readable as weights"):
        execute(store, folder.name, Runtime())
    assert "Move it away to recompute it" in folder.last_failure()["message"]
    assert folder.state() == "failed"


@pytest.mark.parametrize("at", [1, 3, 5])
def test_stopping_and_resuming_changes_neither_weights_nor_curve(ablations, tmp_path, cache, reference, at):
    store = Store(tmp_path / "stopped")
    store.cache = cache
    folder = planned(ablations, store)
    stop = StopAt()
    stop.at = at
    with pytest.raises(Interrupted):
        execute(store, folder.name, Runtime(stop=stop, progress=stop))
    assert folder.state() == "stopped"
    execute(store, folder.name, Runtime())
    assert same(reference, folder)
    assert (folder.path / "curve.csv").read_bytes() == (reference.path / "curve.csv").read_bytes()


def _train_in_process(root, cache, name, workers):
    torch.set_num_threads(1)
    store = Store(root)
    store.cache = Path(cache)
    execute(store, name, Runtime(checkpoint_seconds=0.0, workers=workers))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_kills_at_random_moments_change_no_bit(ablations, tmp_path, cache, workers):
    sets = ("schedule.steps=250",)
    reference = trained(ablations, tmp_path, cache, "reference", Runtime(), *sets)
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
        execute(store, name, Runtime(rank=rank, world=world, stop=stop, progress=stop))
    except Interrupted:
        assert at is not None
    except BaseException as error:
        failures.put(f"rank {rank}: {error!r}")
        raise
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("row", ["no-tokens", "recover-all"])
def test_two_ranks_train_like_one_up_to_the_order_of_sums(ablations, tmp_path, cache, row):
    single, double = Store(tmp_path / "one"), Store(tmp_path / "two")
    single.cache = double.cache = cache
    for store in (single, double):
        folder = planned(ablations, store, row=row)
        if row == "recover-all":
            execute(store, planned(ablations, store, row=row, kind="tokenizer").name, Runtime())
    execute(single, folder.name, Runtime())
    run_as_two(double, cache, folder.name)
    one, two = (load_weights(s.run(folder.name).work / "weights.pt") for s in (single, double))
    assert all(torch.allclose(one[k], two[k], atol=2e-5) for k in one)
    curves = [(s.run(folder.name).path / "curve.csv").read_text().split("\n")[1].split(",") for s in (single, double)]
    assert float(curves[0][1]) == pytest.approx(float(curves[1][1]), rel=1e-4)


def test_two_ranks_stopped_through_one_resume_to_the_same_bits_and_curve(ablations, tmp_path, cache):
    straight, stopped = Store(tmp_path / "straight"), Store(tmp_path / "stopped")
    for store in (straight, stopped):
        store.cache = cache
        folder = planned(ablations, store, row="no-tokens")
    run_as_two(straight, cache, folder.name)
    run_as_two(stopped, cache, folder.name, at=1)
    halted = stopped.run(folder.name)
    assert halted.state() == "stopped"
    assert len(torch.load(halted.work / "checkpoint.pt", weights_only=True)["loss_sums"]) == 2
    run_as_two(stopped, cache, folder.name)
    assert same(straight.run(folder.name), halted)
    assert (halted.path / "curve.csv").read_bytes() == (straight.run(folder.name).path / "curve.csv").read_bytes()


def run_as_two(store, cache, name, at=None):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")  # imports once what each rank needs
    context.set_forkserver_preload(["test_training", "mimbench.launch.worker"])
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
    whole = objective.prepare({"raw": raw}, 5, Runtime())[0]["masks"]["image"]
    halves = [
        objective.prepare({"raw": part}, 5, Runtime(rank=r, world=2))[0]["masks"]["image"]
        for r, part in enumerate(raw.split(4))
    ]
    assert torch.equal(whole.masked, torch.cat([h.masked for h in halves]))
    assert all(h.total == whole.total for h in halves)


def test_a_loss_that_is_not_finite_fails_the_run(ablations, tmp_path, cache):
    store = Store(tmp_path / "nan")
    store.cache = cache
    folder = planned(ablations, store, "schedule.lr=1e30", "schedule.clip=null")
    with pytest.raises(RunFailed, match="lower learning rate"):
        execute(store, folder.name, Runtime())
    assert folder.state() == "failed"


def test_changed_weights_of_a_parent_are_named(ablations, tmp_path, cache):
    store = Store(tmp_path / "parents")
    store.cache = cache
    parent = planned(ablations, store)
    execute(store, parent.name, Runtime())
    (parent.work / "weights.pt").write_bytes(b"something else")
    child = planned(ablations, store, kind="features")
    with pytest.raises(ValueError, match="sha256 mismatch"):
        execute(store, child.name, Runtime())


def test_partial_work_is_discarded_once_the_parent_was_retrained(ablations, tmp_path, cache):
    store = Store(tmp_path / "parents")
    store.cache = cache
    parent = planned(ablations, store)
    execute(store, parent.name, Runtime())
    for kind in ("features", "linear_probe"):
        execute(store, planned(ablations, store, kind=kind).name, Runtime())
    child = planned(ablations, store, kind="finetune")
    stop = StopAt()
    stop.at = 3
    with pytest.raises(Interrupted):
        execute(store, child.name, Runtime(stop=stop, progress=stop))
    assert "checkpoint.pt" in " ".join(progress_found(child))
    state = {name: value + 1 for name, value in load_weights(parent.work / "weights.pt").items()}  # another machine's
    save_weights(state, parent.work / "weights.pt")
    result = read_record(parent.path / "result.json")
    sha = sha256_file(parent.work / "weights.pt")
    write_record(parent.path / "result.json", {**result, "weights_sha256": sha})
    execute(store, child.name, Runtime())
    assert [attempt["found"] for attempt in child.attempts()] == [[], []]
    assert child.result()["parents"]["encoder"]["weights_sha256"] == sha


def test_partial_work_is_discarded_once_the_probe_chose_another_pooling(ablations, tmp_path, cache):
    store = Store(tmp_path / "parents")
    store.cache = cache
    kinds = ("pretrain", "features", "linear_probe", "finetune")
    _, _, probe, child = folders = [planned(ablations, store, kind=kind) for kind in kinds]
    for folder in folders[:3]:
        execute(store, folder.name, Runtime())
    stop = StopAt()
    stop.at = 3
    with pytest.raises(Interrupted):
        execute(store, child.name, Runtime(stop=stop, progress=stop))
    result = read_record(probe.path / "result.json")
    other = {"mean": "class_token"}.get(result["values"]["chosen"]["pooling"], "mean")
    result["values"]["chosen"]["pooling"] = other
    write_record(probe.path / "result.json", result)
    execute(store, child.name, Runtime())
    assert [attempt["found"] for attempt in child.attempts()] == [[], []]
    assert child.result()["parents"]["linear_probe"]["pooling"] == other


def test_a_finished_run_is_not_repeated(ablations, tmp_path, cache, reference):
    before = len(list((reference.path / "attempts").iterdir()))
    store = Store(tmp_path / "reference")
    assert execute(store, reference.name, Runtime()) == "done"
    assert len(list((reference.path / "attempts").iterdir())) == before


def test_a_run_held_by_another_process_is_left_alone(ablations, tmp_path, cache):
    store = Store(tmp_path / "claimed")
    store.cache = cache
    folder = planned(ablations, store)
    lease = folder.acquire()
    assert execute(store, folder.name, Runtime()) == "held"
    lease.release()


def test_only_a_logged_step_reads_a_value_from_the_device(ablations, tmp_path, monkeypatch):
    """A `.item()` or `float()` in every step would make the CPU wait for the GPU each time."""
    batch, reads, counts = {"raw": torch.rand(8, 3, 32, 32)}, [], []
    adamw = torch.optim.AdamW  # fused, as on a GPU: the plain one reads its step
    monkeypatch.setattr(torch.optim, "AdamW", lambda groups, **options: adamw(groups, **{**options, "fused": True}))

    def stream(step):
        yield batch  # constants are made in the first step
        with pytest.MonkeyPatch.context() as trap:
            for name in ("tensor", "as_tensor"):  # copying a constant to the GPU waits
                original = getattr(torch, name)
                trap.setattr(torch, name, lambda *a, f=original, **k: reads.append(1) or f(*a, **k))
            for name in ("item", "__float__", "__bool__", "__int__", "tolist"):
                original = getattr(torch.Tensor, name)
                trap.setattr(torch.Tensor, name, lambda self, f=original: reads.append(1) or f(self))
            yield batch
            counts.append(len(reads))
            yield batch  # the last step is logged

    fit(objective_of(ablations), stream, ScheduleConfig(steps=3, precision="fp32"), tmp_path, 0, Runtime())
    assert counts == [0]
    assert reads  # the trap works


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_step_on_a_gpu_never_waits_for_it(ablations, tmp_path):
    raw = torch.rand(8, 3, 32, 32).pin_memory()

    def stream(step):
        yield {"raw": raw}
        torch.cuda.set_sync_debug_mode("error")
        yield {"raw": raw}
        torch.cuda.set_sync_debug_mode("default")
        yield {"raw": raw}

    schedule, runtime = ScheduleConfig(steps=3, precision="bf16"), Runtime(device=torch.device("cuda"))
    fit(objective_of(ablations), stream, schedule, tmp_path, 0, runtime)


def test_tensorboard_curves_are_written_on_request(ablations, tmp_path, cache):
    pytest.importorskip("tensorboard", reason="tensorboard is an extra: pip install mimbench[tensorboard]")
    folder = trained(ablations, tmp_path, cache, "board", Runtime(tensorboard=True))
    assert list(folder.work.rglob("events.out.tfevents.*"))


def test_wandb_curves_are_written_offline_on_request(ablations, tmp_path, cache):
    pytest.importorskip("wandb", reason="wandb is an extra: pip install mimbench[wandb]")
    folder = trained(ablations, tmp_path, cache, "board", Runtime(wandb=True))
    assert list(folder.work.rglob("offline-run-*/*.wandb"))
