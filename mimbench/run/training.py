"""The kinds of run that train from images: a tokenizer, an encoder."""

from __future__ import annotations

from typing import Any

import torch

from mimbench.config.schema import ScheduleConfig, TokenizerTraining, from_spec
from mimbench.config.terms import ViewConfig
from mimbench.data.loading import Keyed, training_stream
from mimbench.data.sampling import derive
from mimbench.data.sources import opened
from mimbench.data.views import normalize
from mimbench.models.encoder import make_encoder
from mimbench.parts import PatchGrid
from mimbench.plan.terms import check_micro_batches
from mimbench.pretrain.curve import FIGURES
from mimbench.pretrain.fit import fit
from mimbench.pretrain.health import health
from mimbench.pretrain.step import load_encoder
from mimbench.pretrain.terms import tokenizer_side
from mimbench.pretrain.tokenizer import FrozenEncoder, TokenizerFit, make_tokenizer
from mimbench.run.data import data_of
from mimbench.run.objective import keep_objective, make_objective
from mimbench.run.weights import encoder_config, keep_weights, parent_weights
from mimbench.runtime import Runtime
from mimbench.store.results import RunFolder, Store
from mimbench.store.weights import load_weights

HELD_OUT = 1000  # images on which a tokenizer's quality is measured, at most
AT_ONCE = 1000  # images from which a tokenizer that takes no steps learns, at most


def train_tokenizer(
    store: Store, folder: RunFolder, spec: dict[str, Any], runtime: Runtime
) -> tuple[dict[str, Any], int]:
    data, training = data_of(spec), from_spec(TokenizerTraining, spec["training"])
    grid = PatchGrid.of(data.size, spec["patch"])
    tokenizer = make_tokenizer(spec["tokenizer"], grid, spec["seed"])
    used, parents = tokenizer.state_dict().keys(), {}
    if "parents" in spec:
        parents["teacher"] = _learn(tokenizer, store, spec, data.size, runtime)
    found = opened(data.name)
    images = found.load(data, "train", store.cache).head(data.images)
    seen = training.steps * training.batch
    if tokenizer.at_once:
        seen = min(AT_ONCE, len(images))
        folder.work.mkdir(exist_ok=True)
        tokenizer.to(runtime.device).find(images.plain(range(seen)).to(runtime.device))
    else:
        objective = TokenizerFit(tokenizer, training.steps, training.crop, spec["seed"])
        seed = derive(spec["seed"], "tokenizer training")
        stream = training_stream(Keyed(images, seed), len(images), training, seed, runtime)
        fit(objective, stream, training, folder.work, seed, runtime, curve=folder.path / "curve.csv")
    tokenizer.eval()
    held_out = found.load(data, "val", store.cache)
    raw = held_out.plain(range(min(HELD_OUT, len(held_out)))).to(runtime.device)
    with torch.no_grad():
        quality = tokenizer.quality({"raw": raw, "image": normalize(raw)}, grid)
    state = {key: value for key, value in tokenizer.state_dict().items() if key in used}
    return {
        "metrics": {k: v for k, v in quality.items() if isinstance(v, float)},
        "values": {"usable": quality["usable"], "why": quality["why"]},
        "flags": [
            *([] if quality["usable"] else [f"not usable as a tokenizer: {quality['why']}"]),
            *found.flags(("train",), store.cache),
        ],
        **({"parents": parents} if parents else {}),
        "weights_sha256": keep_weights(folder, state) if runtime.rank == 0 else "",
    }, seen


def _learn(tokenizer: Any, store: Store, spec: dict[str, Any], size: int, runtime: Runtime) -> dict[str, Any]:
    """Give the tokenizer its teacher. Returns what to record of it."""
    name = spec["parents"]["teacher"]
    path, noted = parent_weights(store, name)
    teacher = make_encoder(encoder_config(store, name), size, spec["seed"], drop_path=0.0, masked=False)
    load_encoder(teacher, load_weights(path))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(spec["seed"], "tokenizer training layers"))
        tokenizer.learn_from(FrozenEncoder(teacher, runtime.device))
    return noted


def pretrain(store: Store, folder: RunFolder, spec: dict[str, Any], runtime: Runtime) -> tuple[dict[str, Any], int]:
    recipe = spec["recipe"]
    data, schedule = data_of(spec), from_spec(ScheduleConfig, recipe["schedule"])
    check_micro_batches({f"run {folder.name}": recipe}, runtime.micro_batch)
    objective, parents = make_objective(store, spec, runtime.device)
    views = {name: from_spec(ViewConfig, view) for name, view in recipe.get("views", {}).items()}
    found = opened(data.name)
    images = found.load(data, "train", store.cache).head(data.images)
    seed, curve = derive(spec["seed"], "pretraining"), folder.path / "curve.csv"
    dataset = Keyed(images, seed, views, recipe["encoder"]["patch"], tokenizer_side(recipe))
    stream = training_stream(dataset, len(images), schedule, seed, runtime)
    fit(objective, stream, schedule, folder.work, seed, runtime, curve=curve)
    held_out = found.load(data, "val", store.cache)
    seen = Keyed(held_out, seed, views, recipe["encoder"]["patch"], tokenizer_side(recipe))
    figures, flags = health(objective, held_out, lambda indices: seen.__getitems__([(0, i) for i in indices]), runtime)
    return {
        "metrics": {"loss": float(f"{objective.last_loss:{FIGURES}}")}, "values": {"health": figures}, "parents": parents,
        "flags": [*flags, *found.flags(("train",), store.cache)],
        "weights_sha256": keep_objective(folder, objective) if runtime.rank == 0 else "",
    }, schedule.steps * schedule.batch  # fmt: skip
