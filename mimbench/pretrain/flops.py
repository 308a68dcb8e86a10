"""FLOPs of a training step, counted once per recipe on the real objective, on torch's device `meta`: nothing is computed.

Counted are products of matrices, convolutions and attention, forward and backward, teacher and frozen tokenizers included;
not what works element by element, nor the optimizer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mimbench import registry
from mimbench.config.schema import EncoderConfig, TokenizerTraining, from_spec
from mimbench.config.terms import ViewConfig
from mimbench.data.rendering import copies_of, side_of
from mimbench.models.encoder import make_encoder
from mimbench.parts import FILE, PatchGrid
from mimbench.plan.compute import encoder_behind
from mimbench.plan.graph import Plan, Planned
from mimbench.pretrain.fit import Objective, to_device
from mimbench.pretrain.step import make_pretraining
from mimbench.pretrain.terms import specs_of, tokenizer_side
from mimbench.pretrain.tokenizer import FrozenEncoder, TokenizerFit, make_tokenizer
from mimbench.runtime import Runtime

IMAGES = 64  # of the batch that is counted, at most: masks differ between images, and some losses compare them all
STEPS = 32  # counted where sizes of blocks are drawn once a step: I-JEPA at tiny 80.6 MFLOPs an image, as over 512; the first alone 94.7
FEW = 4  # where a part looks at values, which `meta` has not: computed on the CPU

Make = Callable[[torch.device], Objective]


def flops_per_image(run: Planned, plan: Plan) -> float:
    """Of a training step of this run, for each image of its batch."""
    teacher = run.spec.get("parents", {}).get("teacher")
    other = None if teacher is None else from_spec(EncoderConfig, encoder_behind(plan.runs[teacher]) or {})
    if run.kind == "tokenizer":
        return _of_tokenizer(run.spec, other)
    recipe = _with_files(run.spec["recipe"], plan)
    steps = STEPS if hasattr(registry.build("masker", recipe["masker"]), "blocks") else 1
    return _counted(lambda device: untrained(recipe, other, device), _sides(recipe), recipe["schedule"]["batch"], steps)


def _counted(make: Make, sides: dict[str, Any], batch: int, steps: int = 1) -> float:
    try:
        return _count(make, sides, min(batch, IMAGES), steps, torch.device("meta"))
    except (NotImplementedError, RuntimeError):
        return _count(make, sides, min(batch, FEW), steps, torch.device("cpu"))


def _count(make: Make, sides: dict[str, Any], images: int, steps: int, device: torch.device) -> float:
    objective = make(device).to(device).train()
    plain = sdpa_kernel(SDPBackend.MATH)  # torch does not count the CPU's fused kernel
    with torch.random.fork_rng(devices=[]), plain, FlopCounterMode(display=False) as counter:
        for step in range(1, steps + 1):  # not the first: some parts begin there
            (micro,) = objective.prepare(_batch(sides, images), step, Runtime())
            objective(to_device(micro, device)).backward()
    return counter.get_total_flops() / (images * steps)


def _batch(sides: dict[str, Any], images: int) -> dict[str, Any]:
    """Black images of these sides, by key."""
    black = lambda side: torch.zeros(images, 3, *side, dtype=torch.uint8)
    views = {"views": {copy: black(side) for copy, side in sides["views"].items()}} if "views" in sides else {}
    plain = {key: black(side) for key, side in sides.items() if key != "views"}
    return {**plain, **views, "label": torch.zeros(images, dtype=torch.int64)}


def _sides(recipe: dict[str, Any]) -> dict[str, Any]:
    """Of what a batch of the recipe holds."""
    size, patch, own = recipe["data"]["size"], recipe["encoder"]["patch"], tokenizer_side(recipe)
    views = {name: from_spec(ViewConfig, view) for name, view in recipe.get("views", {}).items()}
    if not views:
        return {"raw": (size, size), **({} if own is None else {"tokenizer_raw": (own, own)})}
    return {"views": {copy: (side_of(view, size, patch),) * 2 for copy, (view, _) in copies_of(views).items()}}


def untrained(recipe: dict[str, Any], other: EncoderConfig | None, device: torch.device) -> Objective:
    """A recipe's objective with initial weights in place of its parents'."""
    grid, state = PatchGrid.of(recipe["data"]["size"], recipe["encoder"]["patch"]), {}
    for name, term in specs_of(recipe).items():
        tokenizer = make_tokenizer(term["tokenizer"], grid, 0)
        if tokenizer.trained:
            state[f"tokenizer.{name}"] = tokenizer.state_dict()
    if other is not None:
        teacher = make_encoder(other, recipe["data"]["size"], 0, drop_path=0.0, masked=False)
        state["teacher"] = teacher.state_dict()
    return make_pretraining(recipe, state, 0, device, other)


def _of_tokenizer(spec: dict[str, Any], teacher: EncoderConfig | None) -> float:
    training, size = from_spec(TokenizerTraining, spec["training"]), spec["data"]["size"]

    def make(device: torch.device) -> Objective:
        tokenizer = make_tokenizer(spec["tokenizer"], PatchGrid.of(size, spec["patch"]), 0)
        if teacher is not None:
            encoder = make_encoder(teacher, size, 0, drop_path=0.0, masked=False)
            tokenizer.learn_from(FrozenEncoder(encoder, device))
        return TokenizerFit(tokenizer, training.steps, training.crop, 0)

    if registry.build("tokenizer", spec["tokenizer"]).at_once:
        return 0.0  # little, and not in steps
    return _counted(make, {"raw": (size, size)}, training.batch)


def _with_files(spec: Any, plan: Plan) -> Any:
    """The path of each file that is named by its content."""
    if isinstance(spec, dict):
        return {key: _with_files(value, plan) for key, value in spec.items()}
    if isinstance(spec, str) and spec.startswith(FILE):
        return str(plan.files[spec.removeprefix(FILE)].path)
    return spec
