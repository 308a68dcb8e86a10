"""The terms of the objective, made from a resolved recipe. A flat recipe is one term with one view."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from graphlib import TopologicalSorter
from typing import Any

import torch
from torch import Tensor, nn

from mimbench import registry
from mimbench.config.schema import ONLY, from_spec
from mimbench.config.terms import LINKS, ViewConfig, without_links
from mimbench.data.rendering import copies_of
from mimbench.data.sampling import derive
from mimbench.data.views import normalize
from mimbench.models.encoder import Encoder
from mimbench.models.places import on_grid
from mimbench.models.ranks import gathered
from mimbench.parts import Batch, Decoder, Encoded, Masks, PatchGrid, Tokenizer
from mimbench.store.files import canonical


class FrozenTokenizer:
    """A tokenizer that reads views. Not a Module, so that it is no part of what is trained, saved or distributed."""

    reads = "views"

    def __init__(self, tokenizer: Tokenizer, grid: PatchGrid, device: torch.device) -> None:
        self._tokenizer, self._grid = tokenizer.eval().requires_grad_(False).to(device), grid
        self._own_view = getattr(tokenizer, "stride", None) not in (None, grid.patch)
        self.width: Callable[[PatchGrid], int] = tokenizer.width
        self.target = tokenizer.target
        if hasattr(tokenizer, "decode"):
            self.decode = tokenizer.decode

    def __call__(self, view: Batch) -> Tensor:
        if self._own_view:
            raw = view["tokenizer_raw"]
            view = {**view, "raw": raw, "image": normalize(raw)}
        return self._tokenizer(view, self._grid)


class Term(nn.Module):
    """One summand: the predictions of some views, compared with the targets of some."""

    def __init__(self, name: str, spec: dict[str, Any], copies: dict[str, str], tokenizer: Any, decoder: str) -> None:
        super().__init__()
        self.name, self.weight, self.level = name, spec.get("weight", 1.0), spec.get("level", "patch")
        wanted = spec.get("views") or list(dict.fromkeys(copies.values()))
        self.views = [copy for copy, view in copies.items() if view in wanted]
        self.targets = [copy for copy, view in copies.items() if view in (spec.get("targets") or wanted)]
        # of images, one view's prediction is compared with another's target
        across = self.level == "image" and len({*self.views, *self.targets}) > 1
        self.pairs = [(s, t) for t in self.targets for s in self.views if (s != t) == across]
        self.tokenizer, self.decoder, self.loss = tokenizer, decoder, registry.build("loss", spec["loss"])
        self.after: str | None = spec.get("decoder", {}).get("after")
        self.by_image = getattr(self.loss, "average", "positions") == "images"
        self.key = canonical(spec["tokenizer"])  # equal frozen tokenizers give equal targets

    @property
    def has_teacher(self) -> bool:
        return self.tokenizer.reads == "teacher"

    def reads(self, encoded: Encoded, masks: Masks | None, others: dict[str, dict[str, Tensor]], view: str) -> Encoded:
        """What the decoder works on: the encoder's output, or another term's predictions in place of its patches."""
        if self.after is None:
            return encoded
        assert masks is not None
        return replace(encoded, patches=on_grid(others[self.after][view], masks, masks.predicted), kept=None)

    def values(self, prediction: Tensor, target: Tensor, masks: Masks | None, first: int) -> Tensor:
        """The loss of each predicted position (M,), or of each image (B,)."""
        if getattr(self.loss, "whole_batch", False):
            return self.loss(gathered(prediction), gathered(target), slice(first, first + len(prediction)))
        if self.level == "image":
            return self.loss(prediction, target)
        assert masks is not None
        values = self.loss(prediction, self.predicted(target, masks))
        return values * masks.weight if self.by_image and masks.weight is not None else values

    def predicted(self, target: Tensor, masks: Masks | None) -> Tensor:
        """The targets that the loss reads, (M, ...) or (B, ...)."""
        if self.level == "image":
            return target
        assert masks is not None
        return target.flatten(0, 1)[masks.predicted]

    def count(self, masks: Masks | None, images: int) -> int:
        """What the sum of the values is divided by: positions or images of the whole global batch."""
        by_position = self.level == "patch" and masks is not None and not self.by_image
        return (
            max(1, masks.total) if by_position and masks is not None else images
        )  # a masker may leave all images whole


def tokenizer_side(recipe: dict[str, Any]) -> int | None:
    """Of the images for a tokenizer whose tokens have another stride than the encoder's patches; None: there is none."""
    patch, size = recipe["encoder"]["patch"], recipe["data"]["size"]
    for term in specs_of(recipe).values():
        stride = getattr(registry.build("tokenizer", term["tokenizer"]), "stride", None)
        if stride not in (None, patch):
            return int(size // patch * stride)
    return None


def in_order(decoders: dict[str, dict[str, Any]]) -> list[str]:
    """Terms by name, each after those that its decoder names: the order in YAML is no part of a run's name."""
    known = {name: {decoders[name][key] for key in LINKS if key in decoders[name]} for name in sorted(decoders)}
    return list(TopologicalSorter(known).static_order())


def specs_of(recipe: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return recipe.get("terms") or {ONLY: {kind: recipe[kind] for kind in ("tokenizer", "decoder", "loss")}}


def views_of(recipe: dict[str, Any]) -> dict[str, str]:
    """Each rendering of a sample -> the view it is a copy of."""
    if not recipe.get("views"):
        return {ONLY: ONLY}
    views = {name: from_spec(ViewConfig, view) for name, view in recipe["views"].items()}
    return {copy: copy.rpartition(".")[0] if view.count > 1 else copy for copy, (view, _) in copies_of(views).items()}


def make_terms(
    recipe: dict[str, Any], encoder: Encoder, tokenizers: dict[str, Any], seed: int
) -> tuple[nn.ModuleList, nn.ModuleDict]:
    """The terms, and the decoders by the term that owns them."""
    specs, copies = specs_of(recipe), views_of(recipe)
    terms, decoders = nn.ModuleList(), nn.ModuleDict()
    owner: dict[str, str] = {}
    width = lambda name: tokenizers[name].width(encoder.grid)
    for name in in_order({name: spec["decoder"] for name, spec in specs.items()}):
        spec = specs[name]
        same_as, after = (spec["decoder"].get(link) for link in LINKS)
        own = without_links(spec["decoder"])
        owner[name] = name if own else owner[same_as]
        if own:
            last: dict[str, Any] = {"last": decoders[owner[same_as]]} if same_as else {}
            names = (name,) if len(specs) > 1 else ()
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(derive(seed, "decoder", *names))
                decoder: Decoder = registry.build("decoder", own)
                decoder.build(width(after) if after else encoder.dim, width(name), encoder.grid, **last)
            decoders[name] = decoder
        terms.append(Term(name, spec, copies, tokenizers[name], owner[name]))
    return terms, decoders
