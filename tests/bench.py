"""`make bench`: speed, measured side by side in one run. Ratios are what counts; the seconds are this machine's."""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from mimbench import compat as compat
from mimbench.config import EncoderConfig, ScheduleConfig
from mimbench.data.images import normalise
from mimbench.grid import load_grid
from mimbench.launch import merge_record
from mimbench.models.encoder import prefer_unfused_attention
from mimbench.parts import Grid
from mimbench.plan import make_plan
from mimbench.pretrain.fit import Place, Trainee, save_weights
from mimbench.pretrain.step import draw_masks, make_encoder, make_pretraining
from mimbench.pretrain.tokenizer import make_tokenizer
from mimbench.store import Store

ROOT = Path(__file__).parent.parent
BATCH, ROUNDS = 64, 30
CONFIG = EncoderConfig(patch=4, dim=64, depth=4, heads=2)


def interleaved(**steps: Callable[[], object]) -> dict[str, list[float]]:
    """Seconds of each step, taken in turn, so that a drifting machine is the same for all."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(5):
        for step in steps.values():
            step()
    for _ in range(ROUNDS):
        for name, step in steps.items():
            begun = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - begun)
    return times


def ratio(times: dict[str, list[float]], over: str, under: str) -> float:
    return statistics.median(a / b for a, b in zip(times[over], times[under], strict=True))


def trainer(model: torch.nn.Module, loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            value = loss()
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 3.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def against_timm() -> None:
    """Our encoder's training step against timm's own ViT of the same shape, its attention fused and not."""
    from timm.models.vision_transformer import VisionTransformer

    raw = torch.rand(BATCH, 3, 32, 32)
    image = normalise(raw)
    ours = make_encoder(CONFIG, 32, 0)
    prefer_unfused_attention(ours)
    shape = {
        "img_size": 32,
        "patch_size": 4,
        "embed_dim": 64,
        "depth": 4,
        "num_heads": 2,
        "num_classes": 0,
        "global_pool": "",
    }
    fused, unfused = VisionTransformer(**shape), VisionTransformer(**shape)
    prefer_unfused_attention(unfused)
    hidden = torch.rand(BATCH, 64) < 0.4
    from mimbench.pretrain.step import _with_positions

    masks = _with_positions(hidden, "masked", False, 0)
    times = interleaved(
        ours=trainer(ours, lambda: ours(image, masks).patches.float().square().mean()),
        unfused=trainer(unfused, lambda: unfused(image).float().square().mean()),
        fused=trainer(fused, lambda: fused(image).float().square().mean()),
    )
    rate = BATCH / statistics.median(times["ours"])
    print(f"encoder step, masks included: {rate:.0f} images/s; {ratio(times, 'ours', 'unfused'):.3f} x a bare timm ViT's time "
          f"({ratio(times, 'ours', 'fused'):.3f} x with timm's fused attention)")  # fmt: skip


def parts_of_a_step() -> None:
    """What tokenizer, masker, loader and hooks add to the whole BEiT step."""
    plan = make_plan(load_grid(str(ROOT / "configs/ablations.yaml"), seeds=1, only=("beit",)))
    recipe = plan.runs[plan.rows["beit"][0]["pretrain"]].spec["recipe"]
    grid = Grid(8, 8, 4)
    tokenizer = make_tokenizer(recipe["tokenizer"], grid, 0)
    objective = make_pretraining(recipe, tokenizer, 0)
    trainee = Trainee(objective, ScheduleConfig(precision=recipe["schedule"]["precision"]), 0, Place())
    from mmengine.optim import OptimWrapper

    wrapper = OptimWrapper(torch.optim.AdamW(objective.parameters()))
    raw = torch.rand(BATCH, 3, 32, 32)
    counter = itertools.count()

    def step() -> None:
        trainee.step = next(counter)
        trainee.train_step({"raw": raw}, wrapper)

    def tokenise() -> None:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            tokenizer({"raw": raw, "image": normalise(raw)}, grid)

    from mimbench.data.loading import Keyed
    from mimbench.run import _data_config, load

    with tempfile.TemporaryDirectory() as cache:
        dataset = Keyed(load(_data_config(recipe["data"]), "train", Path(cache)), 0)
        keys = [(0, i * 7 % 20_000) for i in range(BATCH)]
        times = interleaved(
            step=step,
            tokenizer=tokenise,
            masker=lambda: draw_masks(objective.masker, BATCH, objective.encoder, "masked", 0, next(counter)),
            loader=lambda: dataset.__getitems__(keys),
        )
    print(f"whole BEiT step: {BATCH / statistics.median(times['step']):.0f} images/s; of it "
          + ", ".join(f"{name} {100 * ratio(times, name, 'step'):.1f} %" for name in ("tokenizer", "masker", "loader")))  # fmt: skip
    print(f"hooks and loop: {100 * hooks_share(recipe, tokenizer):.2f} % of a step")


def hooks_share(recipe: dict, tokenizer: torch.nn.Module) -> float:
    """A whole `fit` of many steps against the same steps without the Runner around them."""
    from mimbench.pretrain.fit import CheckpointHook, CurveHook, ScheduleHook

    objective = make_pretraining(recipe, tokenizer, 0)
    trainee = Trainee(objective, ScheduleConfig(steps=10**6), 0, Place(checkpoint_seconds=1e9))
    from mmengine.optim import OptimWrapper

    wrapper = OptimWrapper(torch.optim.AdamW(parameter_groups_of(objective)))

    class Runner:
        model, optim_wrapper = trainee, wrapper

    raw = torch.rand(BATCH, 3, 32, 32)
    with tempfile.TemporaryDirectory() as folder:
        hooks = [ScheduleHook(), CurveHook(Path(folder) / "curve.csv"), CheckpointHook(Path(folder) / "checkpoint.pt")]

        def around() -> None:
            for hook in hooks:
                hook.before_train_iter(Runner, trainee.step)
            trainee.step += 1
            for hook in hooks:
                hook.after_train_iter(Runner, trainee.step, outputs={})

        times = interleaved(step=lambda: trainee.train_step({"raw": raw}, wrapper), hooks=around)
    return ratio(times, "hooks", "step")


def parameter_groups_of(objective: torch.nn.Module) -> list[dict]:
    from mimbench.pretrain.fit import parameter_groups

    return parameter_groups(objective, 0.05)


def start_up() -> None:
    """Seconds of a command, and of a run of its own process."""
    for words in (["--help"], ["plan", str(ROOT / "configs/ablations.yaml")]):
        seconds = []
        for _ in range(3):
            begun = time.perf_counter()
            subprocess.run([sys.executable, "-m", "mimbench.cli", *words], capture_output=True, check=True)
            seconds.append(time.perf_counter() - begun)
        print(f"mimbench {words[0]}: {statistics.median(seconds):.2f} s")
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import mimbench.job"], capture_output=True, check=True)
    print(
        f"a cold process of a run (imports): {time.perf_counter() - begun:.2f} s; paid once a grid, by the fork server"
    )


def planning() -> None:
    """A plan of 10,000 runs: 7 rows x 295 seeds."""
    begun = time.perf_counter()
    plan = make_plan(load_grid(str(ROOT / "configs/ablations.yaml"), seeds=295))
    print(f"planning {len(plan.runs)} runs: {time.perf_counter() - begun:.2f} s")


def ten_thousand_runs() -> None:
    """A dry submission and a status of 10,000 runs, as whole processes with their memory."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results"
        dry = [
            "run",
            "grid",
            str(ROOT / "configs/ablations.yaml"),
            "--seeds",
            "286",
            "--dry-run",
            "--on",
            "slurm:trial",
        ]
        print("dry submission of 10,000 runs: " + measured([*dry, "--results", str(results)]))
        plan = make_plan(load_grid(str(ROOT / "configs/ablations.yaml"), seeds=286))
        store = Store(results)
        for name, run in plan.runs.items():
            path = store.run(name).path
            path.mkdir(parents=True)
            for file, value in (("spec", run.spec), ("result", {"kind": run.kind}), ("cost", {"seconds": 1.0})):
                (path / f"{file}.json").write_text(json.dumps(value))
        merge_record(plan, store)
        print(f"status over {len(plan.runs)} finished runs: " + measured(["status", "--results", str(results)]))


def measured(words: list[str]) -> str:
    """Seconds and peak memory of a command, which must stay under 5 s and 1 GiB."""
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "mimbench", *words], stdout=subprocess.DEVNULL)
    _, code, usage = os.wait4(process.pid, 0)
    seconds, gibibytes = time.perf_counter() - begun, usage.ru_maxrss / 2**20
    assert code == 0, words
    assert seconds < 5, (words, seconds)
    assert gibibytes < 1, (words, gibibytes)
    return f"{seconds:.2f} s, {gibibytes:.2f} GiB"


def checkpoints() -> None:
    """Size and time of a checkpoint of a ViT-B/16 with AdamW's state, on this machine's disk."""
    model = make_encoder(EncoderConfig(), 224, 0)
    moments = {name: torch.rand_like(value) for name, value in model.state_dict().items()}
    state = {"step": 1, "objective": model.state_dict(), "optimizer": [moments, dict(moments)]}
    with tempfile.TemporaryDirectory() as folder:
        path, seconds = Path(folder) / "checkpoint.pt", []
        for _ in range(3):
            begun = time.perf_counter()
            save_weights(state, path)
            seconds.append(time.perf_counter() - begun)
        median = statistics.median(seconds)
        print(f"checkpoint of a ViT-B/16 with its optimiser: {path.stat().st_size / 2**30:.2f} GiB in {median:.1f} s, "
              f"{100 * median / (600 + median):.2f} % of the time at one in ten minutes")  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    against_timm()
    parts_of_a_step()
    start_up()
    planning()
    ten_thousand_runs()
    checkpoints()
