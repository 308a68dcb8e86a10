"""Half of `make bench`: training steps, compared within one run. The ratios count; the seconds are this machine's."""

from __future__ import annotations

import dataclasses
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from limits import missed, within

from mimbench import compat as compat
from mimbench import env, registry
from mimbench.config.grid import load_grid
from mimbench.config.schema import DataConfig, EncoderConfig, ScheduleConfig, from_spec
from mimbench.config.terms import ViewConfig
from mimbench.data.loading import Keyed
from mimbench.data.rendering import copies_of, side_of
from mimbench.data.sources import source
from mimbench.data.views import normalize
from mimbench.models.encoder import choose_attention, make_encoder
from mimbench.parts import Masks, PatchGrid
from mimbench.plan.graph import make_plan
from mimbench.pretrain.fit import Objective, fit
from mimbench.pretrain.masks import AHEAD, StepMasks
from mimbench.pretrain.optim import parameter_groups
from mimbench.pretrain.step import make_pretraining
from mimbench.pretrain.terms import specs_of
from mimbench.pretrain.tokenizer import make_tokenizer
from mimbench.runtime import Progress, Runtime
from mimbench.store.weights import save_weights

ROOT = Path(__file__).parent.parent
BATCH, ROUNDS, WARM_UP = 64, 30, 5
CONFIG = EncoderConfig(patch=4, dim=64, depth=4, heads=2)


def interleaved(
    steps: dict[str, Callable[[], object]], rounds: int = ROUNDS, warm_up: int = WARM_UP,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:  # fmt: skip
    """Seconds of each step, taken in turn, each round from another one on: a drifting machine affects all alike."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for number in range(-warm_up, rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            begun = clock()
            steps[name]()
            if number >= 0:
                times[name].append(clock() - begun)
    return times


def ratio(times: dict[str, list[float]], over: str, under: str) -> float:
    return statistics.median(a / b for a, b in zip(times[over], times[under], strict=True))


def trainer(model: torch.nn.Module, loss: Callable[[], torch.Tensor], bf16: bool | None = None) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=env.bf16_pays() if bf16 is None else bf16):
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
    image = normalize(raw)
    ours = make_encoder(CONFIG, 32, 0)
    choose_attention(ours)
    new = lambda: VisionTransformer(32, 4, embed_dim=64, depth=4, num_heads=2, num_classes=0, global_pool="")
    fused, unfused = new(), new()
    set_attention(unfused, fused=False)
    masker = registry.build("masker", {"type": "random", "ratio": 0.4})
    masks = StepMasks(masker, ours.grid, drop=False, seed=0).whole(BATCH, 0)
    times = interleaved({
        "ours": trainer(ours, lambda: ours(image, masks).patches.float().square().mean()),
        "unfused": trainer(unfused, lambda: unfused(image).float().square().mean()),
        "fused": trainer(fused, lambda: fused(image).float().square().mean()),
    })  # fmt: skip
    rate = BATCH / statistics.median(times["ours"])
    print(f"encoder step, masks included: {rate:.0f} images/s; {ratio(times, 'ours', 'unfused'):.3f} x a bare timm ViT's time "
          f"({ratio(times, 'ours', 'fused'):.3f} x with timm's fused attention), {'bf16' if env.bf16_pays() else 'fp32'}")  # fmt: skip
    within(ratio(times, "ours", "unfused"), 1.05, "the encoder's step against a bare timm ViT's")


def parts_of_a_step() -> None:
    """Share of tokenizer, masker and loader in a whole BEiT step, and what the training loop adds to the bare step."""
    plan = make_plan(load_grid(str(ROOT / "configs/ablations.yaml"), seeds=1, only=("beit",)))
    recipe = plan.runs[plan.rows["beit"][0]["pretrain"]].spec["recipe"]
    schedule, grid = from_spec(ScheduleConfig, recipe["schedule"]), PatchGrid.of(32, 4)
    tokenizer = make_tokenizer(recipe["tokenizer"], grid, 0)
    state = {"tokenizer": tokenizer.state_dict()}
    new = lambda: make_pretraining(recipe, state, 0, torch.device("cpu"))
    batch = {"raw": torch.rand(BATCH, 3, 32, 32)}
    (masks,), numbers = new().masks.values(), itertools.count(0, AHEAD)

    def tokenize() -> None:
        with torch.no_grad():  # in fp32, as in the step
            tokenizer({**batch, "image": normalize(batch["raw"])}, grid)

    with tempfile.TemporaryDirectory() as cache:
        data = from_spec(DataConfig, recipe["data"])
        dataset = Keyed(source(data.name).load(data, "train", Path(cache)), 0)
        keys = [(0, i * 7 % len(dataset.images)) for i in range(BATCH)]
        times = fit_interleaved(
            new(), schedule, batch,
            bare=bare_step(new(), schedule, batch),
            tokenizer=tokenize,
            masker=lambda: masks.whole(BATCH, next(numbers)),  # draws as many steps as fit does at a time
            loader=lambda: dataset.__getitems__(keys),
        )  # fmt: skip
    times["masker"] = [seconds / AHEAD for seconds in times["masker"]]
    print(f"whole BEiT step: {BATCH / statistics.median(times['step']):.0f} images/s; of it "
          + ", ".join(f"{name} {100 * ratio(times, name, 'step'):.1f} %" for name in ("tokenizer", "masker", "loader")))  # fmt: skip
    within(ratio(times, "masker", "step"), 0.01, "the masker's share of a step")
    print(
        f"a step of the training loop, with curve, progress and checkpoints: {ratio(times, 'step', 'bare'):.3f} x the bare step"
    )
    within(ratio(times, "step", "bare"), 1.02, "a step of the loop against the bare step")


def recipes() -> None:
    """A training step of each recipe at tiny, views rendered before, against BEiT's."""
    names = sorted(path.stem for path in (ROOT / "configs/recipes").glob("*.yaml"))
    with tempfile.TemporaryDirectory() as folder:
        rows = [{"name": name, "base": name} for name in names]
        path = Path(folder) / "recipes.yaml"
        path.write_text(
            json.dumps({"name": "recipes", "base": "beit", "scale": "tiny", "protocols": ["knn"], "rows": rows})
        )
        plan = make_plan(load_grid(str(path), seeds=1))
    steps = {}
    for name in names:
        recipe = plan.runs[plan.rows[name][0]["pretrain"]].spec["recipe"]
        tokenizers = (make_tokenizer(term["tokenizer"], PatchGrid.of(32, 4), 0) for term in specs_of(recipe).values())
        state = next(({"tokenizer": tokenizer.state_dict()} for tokenizer in tokenizers if tokenizer.trained), {})
        views = {view: from_spec(ViewConfig, given) for view, given in recipe.get("views", {}).items()}
        raw = {
            copy: torch.rand(BATCH, 3, side_of(view, 32, 4), side_of(view, 32, 4))
            for copy, (view, _) in copies_of(views).items()
        }
        batch = {"views": raw} if views else {"raw": torch.rand(BATCH, 3, 32, 32)}
        objective = make_pretraining(recipe, state, 0, torch.device("cpu"))
        labels = torch.zeros(BATCH, dtype=torch.int64)
        steps[name] = bare_step(objective, from_spec(ScheduleConfig, recipe["schedule"]), {**batch, "label": labels})
    times = interleaved(steps)
    print("a step against BEiT's: " + ", ".join(f"{name} {ratio(times, name, 'beit'):.2f}" for name in names))


def fit_interleaved(
    objective: Objective, schedule: ScheduleConfig, batch: dict[str, torch.Tensor], **others: Callable[[], object]
) -> dict[str, list[float]]:
    """Seconds of each step of `fit`, with other work timed in turn between the steps."""
    times: dict[str, list[float]] = {name: [] for name in ("step", *others)}
    steps = WARM_UP + ROUNDS + 1

    def stream(start: int) -> Iterator[dict[str, torch.Tensor]]:
        for _ in range(start, steps):
            begun = time.perf_counter()
            yield batch
            times["step"].append(time.perf_counter() - begun)
            for name, other in others.items():
                begun = time.perf_counter()
                other()
                times[name].append(time.perf_counter() - begun)

    with tempfile.TemporaryDirectory() as folder:
        runtime = Runtime(progress=Progress(Path(folder)))
        fit(objective, stream, dataclasses.replace(schedule, steps=steps, warmup=0), Path(folder), 0, runtime)
    return {name: seconds[WARM_UP:] for name, seconds in times.items()}


def bare_step(objective: Objective, schedule: ScheduleConfig, batch: dict[str, torch.Tensor]) -> Callable[[], None]:
    """The computation of a step, and nothing around it."""
    own = objective.own_parameters()
    groups = [*parameter_groups(objective, schedule.weight_decay, without=own), *own]
    optimizer, numbers = torch.optim.AdamW(groups), itertools.count()

    def step() -> None:
        number = next(numbers)
        (micro,) = objective.prepare(batch, number, Runtime())
        with torch.autocast("cpu", torch.bfloat16, enabled=schedule.precision == "bf16"):
            loss = objective(micro)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(objective.parameters(), schedule.clip or 1e9)
        objective.after_backward(number)
        optimizer.step()
        objective.after_step(number, 1)
        optimizer.zero_grad()

    return step


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
        print(f"checkpoint of a ViT-B/16 with its optimizer: {path.stat().st_size / 2**30:.2f} GiB in {median:.1f} s, "
              f"{100 * median / (600 + median):.2f} % of the time at one in ten minutes")  # fmt: skip


def against_frameworks() -> None:
    """Training steps at 224 pixels against the fastest of timm and transformers, either attention: at most its time."""
    for dim, heads, batch, rounds in ((384, 6, 4, 8), (768, 12, 2, 4)):
        for bf16 in (True, False) if env.bf16_pays() else (False,):
            for work, rivals in (("ViT", vits), ("BEiT", beits), ("MAE", maes)):
                models = rivals(dim, heads, batch)
                steps = {name: trainer(model, loss, bf16) for name, (model, loss) in models.items()}
                times = interleaved(steps, rounds, warm_up=1, clock=time.process_time)
                what = f"{work} {dim}, {'bf16' if bf16 else 'fp32'}"
                found = {name: ratio(times, "ours", name) for name in times if name != "ours"}
                fastest = max(found, key=lambda name: found[name])
                noise = error_of_ratio(times, "ours", fastest)
                print(f"{what}: {statistics.median(times['ours']):.2f} s of CPU; against "
                      + ", ".join(f"{name} {value:.3f}" for name, value in found.items()) + f" (± {noise:.3f})", flush=True)  # fmt: skip
                within(found[fastest], 1 + noise, f"a step of {what} against {fastest}'s")


def error_of_ratio(times: dict[str, list[float]], over: str, under: str) -> float:
    """Two standard errors of the median of ratios, from their quartiles."""
    ratios = [a / b for a, b in zip(times[over], times[under], strict=True)]
    low, _, high = statistics.quantiles(ratios)
    return 2 * 1.253 * (high - low) / 1.349 / len(ratios) ** 0.5


def set_attention(model: torch.nn.Module, *, fused: bool) -> None:
    """timm's, or transformers', as it is built: the same weights and optimizer serve both."""
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            setattr(module, "fused_attn", fused)  # noqa: B010 (not every module has it)
        if hasattr(module, "config"):
            module.config._attn_implementation = "sdpa" if fused else "eager"


Rivals = dict[str, tuple[torch.nn.Module, Callable[[], torch.Tensor]]]


def both_attentions(name: str, model: torch.nn.Module, loss: Callable[[], torch.Tensor]) -> Rivals:
    def run(fused: bool) -> torch.Tensor:
        set_attention(model, fused=fused)
        return loss()

    return {f"{name} fused": (model, lambda: run(True)), f"{name} plain": (model, lambda: run(False))}


def our_encoder(config: EncoderConfig, batch: int) -> tuple[torch.nn.Module, Masks]:
    """As the pre-training has it where a linear layer reads the predicted positions."""
    encoder = make_encoder(config, 224, 0)
    choose_attention(encoder)
    encoder.only_predicted = True
    masker = registry.build("masker", {"type": "random", "ratio": 0.4})
    return encoder, StepMasks(masker, encoder.grid, drop=False, seed=0).whole(batch, 0)


def squares(patches: torch.Tensor, masks: Masks) -> torch.Tensor:
    """A loss of the predicted positions that costs nothing."""
    return patches.flatten(0, 1).index_select(0, masks.predicted).float().square().mean()


def vits(dim: int, heads: int, batch: int) -> Rivals:
    """A plain ViT: timm's has no mask tokens."""
    from timm.models.vision_transformer import VisionTransformer
    from transformers import ViTConfig, ViTModel

    image = normalize(torch.rand(batch, 3, 224, 224))
    ours, masks = our_encoder(EncoderConfig(dim=dim, heads=heads), batch)
    timms = VisionTransformer(embed_dim=dim, num_heads=heads, num_classes=0, global_pool="")
    config = ViTConfig(hidden_size=dim, num_attention_heads=heads, intermediate_size=4 * dim)
    theirs, hidden = ViTModel(config, add_pooling_layer=False, use_mask_token=True).train(), masks.masked.long()
    return {
        "ours": (ours, lambda: squares(ours(image, masks).patches, masks)),
        **both_attentions("timm", timms, lambda: squares(timms(image)[:, 1:], masks)),
        **both_attentions("transformers", theirs,
                          lambda: squares(theirs(image, bool_masked_pos=hidden).last_hidden_state[:, 1:], masks)),
    }  # fmt: skip


def beits(dim: int, heads: int, batch: int) -> Rivals:
    """With shared relative positions and LayerScale."""
    from transformers import BeitConfig, BeitModel

    image = normalize(torch.rand(batch, 3, 224, 224))
    ours, masks = our_encoder(EncoderConfig(type="beit", positions="none", relative_positions="shared", layer_scale=0.1,
                                            dim=dim, heads=heads), batch)  # fmt: skip
    config = BeitConfig(hidden_size=dim, num_attention_heads=heads, intermediate_size=4 * dim, use_mask_token=True,
                        use_shared_relative_position_bias=True, layer_scale_init_value=0.1, drop_path_rate=0.0)  # fmt: skip
    theirs = BeitModel(config, add_pooling_layer=False).train()
    loss = lambda: squares(theirs(image, bool_masked_pos=masks.masked).last_hidden_state[:, 1:], masks)
    return {
        "ours": (ours, lambda: squares(ours(image, masks).patches, masks)),
        **both_attentions("transformers", theirs, loss),
    }


def maes(dim: int, heads: int, batch: int) -> Rivals:
    """The whole recipe: masks drawn, targets normalized per patch, MAE's decoder."""
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    plan = make_plan(load_grid(str(ROOT / "configs/methods.yaml"), seeds=1, only=("mae",)))
    recipe = plan.runs[plan.rows["mae"][0]["pretrain"]].spec["recipe"]
    recipe["data"]["size"] = 224
    recipe["encoder"].update(patch=16, dim=dim, depth=12, heads=heads)
    recipe["decoder"].update(dim=512, depth=8, heads=16)
    ours, numbers = make_pretraining(recipe, {}, 0, torch.device("cpu")), itertools.count()
    raw = torch.rand(batch, 3, 224, 224)
    config = ViTMAEConfig(hidden_size=dim, num_attention_heads=heads, intermediate_size=4 * dim, norm_pix_loss=True)
    theirs = ViTMAEForPreTraining(config).train()
    return {
        "ours": (ours, lambda: ours(ours.prepare({"raw": raw}, next(numbers), Runtime())[0])),
        **both_attentions("transformers", theirs, lambda: theirs(normalize(raw)).loss),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    against_timm()
    parts_of_a_step()
    checkpoints()
    against_frameworks()
    recipes()
    sys.exit(missed())
