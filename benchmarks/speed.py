"""`make bench`: speed, measured side by side in one run. Ratios are what counts; the seconds are this machine's."""

from __future__ import annotations

import dataclasses
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
from typing import Any

import torch
from mmengine.optim import OptimWrapper

from mimbench import compat as compat
from mimbench import env
from mimbench.config.grid import load_grid
from mimbench.config.schema import EncoderConfig, ScheduleConfig
from mimbench.data.sources.images import normalise
from mimbench.launch.local import merge_record
from mimbench.models.encoder import prefer_unfused_attention
from mimbench.parts import Grid
from mimbench.plan.graph import make_plan
from mimbench.pretrain.fit import Place, Trainee, fit, parameter_groups, save_weights
from mimbench.pretrain.step import AHEAD, draw_masks, make_encoder, make_pretraining
from mimbench.pretrain.tokenizer import make_tokenizer
from mimbench.progress import Progress
from mimbench.store.results import Store

ROOT = Path(__file__).parent.parent
BATCH, ROUNDS, STEPS = 64, 30, 25
MISSED: list[str] = []
CONFIG = EncoderConfig(patch=4, dim=64, depth=4, heads=2)


def interleaved(rounds: int = ROUNDS, warm_up: int = 5, **steps: Callable[[], object]) -> dict[str, list[float]]:
    """Seconds of each step, taken in turn, so that a drifting machine is the same for all."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(warm_up):
        for step in steps.values():
            step()
    for _ in range(rounds):
        for name, step in steps.items():
            begun = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - begun)
    return times


def ratio(times: dict[str, list[float]], over: str, under: str) -> float:
    return statistics.median(a / b for a, b in zip(times[over], times[under], strict=True))


def within(value: float, most: float, what: str) -> None:
    """The limits that we set ourselves; what exceeds one is said at the end, and fails."""
    if value > most:
        MISSED.append(f"{what}: {value:.4g}, and the limit is {most:g}")


def trainer(model: torch.nn.Module, loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=env.bf16_pays()):
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
          f"({ratio(times, 'ours', 'fused'):.3f} x with timm's fused attention), {'bf16' if env.bf16_pays() else 'fp32'}")  # fmt: skip
    within(ratio(times, "ours", "unfused"), 1.05, "the encoder's step against a bare timm ViT's")


def parts_of_a_step() -> None:
    """What tokenizer, masker, loader and hooks add to the whole BEiT step."""
    plan = make_plan(load_grid(str(ROOT / "configs/ablations.yaml"), seeds=1, only=("beit",)))
    recipe = plan.runs[plan.rows["beit"][0]["pretrain"]].spec["recipe"]
    grid = Grid(8, 8, 4)
    tokenizer = make_tokenizer(recipe["tokenizer"], grid, 0)
    objective = make_pretraining(recipe, tokenizer, 0)
    trainee = Trainee(objective, ScheduleConfig(precision=recipe["schedule"]["precision"]), 0, Place())
    wrapper = OptimWrapper(torch.optim.AdamW(objective.parameters()))
    raw = torch.rand(BATCH, 3, 32, 32)
    counter, others = itertools.count(), itertools.count(10**6)

    def step() -> None:
        trainee.step = next(counter)
        trainee.train_step({"raw": raw}, wrapper)

    def draw_ahead() -> None:  # as many as a step draws at a time, one step in so many
        for _ in range(AHEAD):
            draw_masks(objective.masker, BATCH, objective.encoder, "masked", 0, next(others))

    def tokenise() -> None:
        with torch.no_grad():  # in fp32, as the step has it
            tokenizer({"raw": raw, "image": normalise(raw)}, grid)

    from mimbench.data.loading import Keyed
    from mimbench.run.execute import _data_config, load

    with tempfile.TemporaryDirectory() as cache:
        dataset = Keyed(load(_data_config(recipe["data"]), "train", Path(cache)), 0)
        keys = [(0, i * 7 % 20_000) for i in range(BATCH)]
        times = interleaved(
            step=step,
            tokenizer=tokenise,
            masker=draw_ahead,
            loader=lambda: dataset.__getitems__(keys),
        )
    times["masker"] = [seconds / AHEAD for seconds in times["masker"]]
    print(f"whole BEiT step: {BATCH / statistics.median(times['step']):.0f} images/s; of it "
          + ", ".join(f"{name} {100 * ratio(times, name, 'step'):.1f} %" for name in ("tokenizer", "masker", "loader")))  # fmt: skip
    within(ratio(times, "masker", "step"), 0.01, "the masker's share of a step")
    schedule = ScheduleConfig(steps=STEPS, batch=BATCH, precision=recipe["schedule"]["precision"])
    new = lambda: make_pretraining(recipe, tokenizer, 0)
    hooks = hooks_share(new(), schedule)
    print(f"hooks: {100 * hooks:.2f} % of a step; a whole fit of {STEPS} steps, with mmengine's Runner, progress and the final "
          f"weights: {fit_ratio(new, schedule):.3f} x the bare steps")  # fmt: skip
    within(hooks, 0.01, "the hooks' share of a step")


def hooks_share(objective: torch.nn.Module, schedule: ScheduleConfig) -> float:
    """What the hooks do around steps, over as many as lie between two lines of the curve, against a step."""
    from mimbench.pretrain.fit import LOG_EVERY, CheckpointHook, CurveHook, ScheduleHook

    with tempfile.TemporaryDirectory() as folder:
        place = Place(checkpoint_seconds=1e9, progress=Progress(Path(folder)))
        trainee = Trainee(objective, dataclasses.replace(schedule, steps=10**6), 0, place)
        wrapper = OptimWrapper(torch.optim.AdamW(parameter_groups(objective, 0.05)))

        class Runner:
            model, optim_wrapper = trainee, wrapper

        hooks = [ScheduleHook(), CurveHook(Path(folder) / "curve.csv"), CheckpointHook(Path(folder) / "checkpoint.pt")]
        raw = torch.rand(BATCH, 3, 32, 32)

        def around() -> None:
            for _ in range(LOG_EVERY):
                for hook in hooks:
                    hook.before_train_iter(Runner, trainee.step)
                trainee.step += 1
                for hook in hooks:
                    hook.after_train_iter(Runner, trainee.step, outputs={})
                place.progress(trainee.step, 10**6)

        times = interleaved(step=lambda: trainee.train_step({"raw": raw}, wrapper), hooks=around)
    return ratio(times, "hooks", "step") / LOG_EVERY


def fit_ratio(new: Callable[[], Any], schedule: ScheduleConfig) -> float:
    """A whole `fit` against the same steps on their own."""
    raw = torch.rand(BATCH, 3, 32, 32)

    def whole() -> None:
        with tempfile.TemporaryDirectory() as folder:
            place = Place(progress=Progress(Path(folder)))
            fit(new(), lambda start: iter([{"raw": raw}] * (STEPS - start)), schedule, Path(folder), 0, place)

    def bare() -> None:
        trainee = Trainee(new(), schedule, 0, Place())
        wrapper = OptimWrapper(torch.optim.AdamW(parameter_groups(trainee.objective, 0.05)))
        for step in range(STEPS):
            trainee.step = step
            trainee.train_step({"raw": raw}, wrapper)

    return ratio(interleaved(rounds=9, warm_up=1, whole=whole, bare=bare), "whole", "bare")


def start_up() -> None:
    """Seconds of a command, and of a run of its own process."""
    for words in (["--help"], ["plan", str(ROOT / "configs/ablations.yaml")]):
        seconds = []
        for _ in range(3):
            begun = time.perf_counter()
            subprocess.run([sys.executable, "-m", "mimbench.cli.commands", *words], capture_output=True, check=True)
            seconds.append(time.perf_counter() - begun)
        print(f"mimbench {words[0]}: {statistics.median(seconds):.2f} s")
        if words[0] == "--help":
            within(statistics.median(seconds), 0.3, "seconds of mimbench --help")
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import mimbench.launch.worker"], capture_output=True, check=True)
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
    within(seconds, 5, f"seconds of mimbench {words[0]} with 10,000 runs")
    within(gibibytes, 1, f"GiB of mimbench {words[0]} with 10,000 runs")
    return f"{seconds:.2f} s, {gibibytes:.2f} GiB"


def checkpoints() -> None:
    """Size and time of a checkpoint of a ViT-B/16 with AdamW's state, on this machine's disk."""
    model = make_encoder(EncoderConfig(), 224, 0)
    moments = [{name: torch.rand_like(value) for name, value in model.state_dict().items()} for _ in range(2)]
    state = {"step": 1, "objective": model.state_dict(), "optimizer": moments}
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
    sys.exit("\n".join(["Limits missed:", *MISSED]) if MISSED else 0)
