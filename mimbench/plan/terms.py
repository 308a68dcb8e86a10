"""Do the parts of each term fit together? By their own declarations, before any compute."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mimbench import registry
from mimbench.config.schema import ONLY, EncoderConfig, Recipe
from mimbench.config.terms import LINKS, TermConfig, without_links
from mimbench.errors import UserError, nearest, unknown
from mimbench.parts import PatchGrid
from mimbench.plan.batch import check_batch
from mimbench.plan.features import check_features, check_hidden, width_read


@dataclass(frozen=True)
class _Parts:
    """The parts of one term, and how an error names each."""

    tokenizer: Any
    decoder: Any
    loss: Any
    masker: Any
    title: dict[str, str]

    @property
    def reads(self) -> str:
        return getattr(self.tokenizer, "reads", "views")


def check_terms(recipe: Recipe, teacher: EncoderConfig, classes: Callable[[], int], place: str) -> None:
    """`teacher`: the encoder that a teacher has; `classes` counts those of the images, if a term needs to know."""
    built: dict[str, _Parts] = {}
    widths: dict[str, int] = {}
    for name, term in recipe.terms.items():
        where = place if recipe.flat else f"{place}: terms.{name}"
        if not recipe.flat and hasattr(nn.ModuleDict, name):
            raise UserError(f"{where}: '{name}' cannot name a term: torch uses the word. Choose another name.")
        parts = built[name] = _built(recipe, name, term, where)
        _check_kinds(term, parts, where)
        _check_teacher(recipe, term, parts, where)
        _check_masking(recipe, term, parts, where)
        _check_views(recipe, term, parts, teacher, where)
        widths[name] = _check_on_grid(recipe, parts, teacher, where)
        if "label" in parts.tokenizer.views and widths[name] < classes():
            raise UserError(f"{where}: {parts.title['tokenizer']} has {widths[name]} classes, and {recipe.data.name} has "
                            f"{classes()}. Set its `classes` to {classes()}.")  # fmt: skip
    _check_use_of_views(recipe, place)
    _check_strides(recipe, built.values(), place)
    for name, parts in built.items():
        where = place if recipe.flat else f"{place}: terms.{name}"
        _check_decoder(recipe, name, parts, widths, where)
        check_features(recipe, name, parts.decoder, parts.masker, parts.title, widths, where)
        of_term = {"loss": parts.loss, "tokenizer": parts.tokenizer, "decoder": parts.decoder}
        check_batch(recipe, of_term, parts.title, widths[name], recipe.terms[name].level, where)
    if recipe.teacher is not None and all(parts.reads != "teacher" for parts in built.values()):
        raise UserError(f"{place}: teacher: no term reads it.{_fitting('tokenizer', 'reads', 'teacher')}")
    if hasattr(registry.build("masker", recipe.masker), "noise"):
        _check_guided(recipe, teacher, place)


def _check_guided(recipe: Recipe, teacher: EncoderConfig, place: str) -> None:
    title = _title("masker", recipe.masker)
    if recipe.teacher is None:
        raise UserError(f"{place}: {title} follows a teacher's attention, and the recipe has none. Add "
                        "`teacher: {row: NAME}` and a tokenizer that reads it.")  # fmt: skip
    if recipe.teacher.sees == "hidden":
        raise UserError(
            f"{place}: {title} follows the attention of a teacher that sees whole images; teacher.sees must be all."
        )
    if recipe.views:
        raise UserError(f"{place}: {title} follows the teacher's attention to the one view; a recipe with `views:` is "
                        "not supported.")  # fmt: skip
    plain = teacher.type == "vit" and teacher.attention == "full" and teacher.class_token and not teacher.registers
    if not plain or teacher.depth < 2:
        raise UserError(f"{place}: {title} follows the attention of the teacher's class token, which needs the encoder "
                        "type 'vit' with attention 'full', a class token, no registers and at least 2 blocks.")  # fmt: skip


def check_micro_batches(recipes: Mapping[str, dict[str, Any]], micro_batch: int | None) -> None:
    """Resolved recipes by what they are of, before any runs: what compares whole batches cannot have them cut."""
    if micro_batch is None:
        return
    found = [f"{part} of {whose}" for whose, recipe in recipes.items() if (part := whole_batch_of(recipe))]
    if found:
        raise UserError(f"micro_batch: must not be set, as these compare the whole batch: {'; '.join(found)}. Leave it out, or run "
                        "other rows with --only.")  # fmt: skip


def whole_batch_of(recipe: dict[str, Any]) -> str | None:
    """The part of a resolved recipe, if any, that compares whole batches, so that these cannot be cut."""
    terms = recipe.get("terms") or {ONLY: recipe}
    for term in terms.values():
        for kind in ("loss", "tokenizer", "decoder"):
            if "type" in term[kind] and getattr(registry.build(kind, without_links(term[kind])), "whole_batch", False):
                return _title(kind, term[kind])
    return None


def _built(recipe: Recipe, name: str, term: TermConfig, place: str) -> _Parts:
    """With only `same_as`, the decoder is that term's."""
    others = [key for key, other in recipe.terms.items() if key != name and not any(k in other.decoder for k in LINKS)]
    for link in LINKS:
        if link in term.decoder and term.decoder[link] not in others:
            raise unknown(f"{place}.decoder.{link}", "term with a decoder of its own", term.decoder[link], others)
    decoder = without_links(term.decoder) or recipe.terms[term.decoder["same_as"]].decoder
    specs = {"tokenizer": term.tokenizer, "decoder": decoder, "loss": term.loss, "masker": recipe.masker}
    title = {kind: _title(kind, spec) for kind, spec in specs.items()}
    return _Parts(**{kind: registry.build(kind, spec) for kind, spec in specs.items()}, title=title)


def _title(kind: str, spec: dict[str, Any]) -> str:
    return f"{kind} '{spec['type']}'"


def _fitting(kind: str, attribute: str, value: Any) -> str:
    """The registered parts whose class declares what is needed."""
    classes = sorted(registry.REGISTRIES[kind].module_dict.items())
    names = [name for name, cls in classes if _declares(getattr(cls, attribute, None), value)]
    return f" Allowed: {', '.join(names)}." if names else ""


def _with(kind: str, method: str) -> str:
    """The registered parts that have this method."""
    names = [name for name, cls in sorted(registry.REGISTRIES[kind].module_dict.items()) if hasattr(cls, method)]
    return f" Allowed: {', '.join(names)}."


def _declares(declared: Any, value: Any) -> bool:
    return value in declared if isinstance(declared, tuple) else bool(declared == value)


def _check_kinds(term: TermConfig, parts: _Parts, place: str) -> None:
    """Targets and loss, level and parts."""
    tokenizer, loss, title = parts.tokenizer, parts.loss, parts.title
    if tokenizer.target != loss.expects:
        raise UserError(f"{place}: {title['tokenizer']} gives {tokenizer.target}, {title['loss']} expects {loss.expects}."
                        f"{_fitting('loss', 'expects', tokenizer.target)}")  # fmt: skip
    for kind, part in (("tokenizer", tokenizer), ("decoder", parts.decoder)):
        levels = getattr(part, "levels", ("patch",))
        if term.level not in levels:
            raise UserError(f"{place}: level {term.level}: {title[kind]} works at level {' and '.join(levels)}."
                            f"{_fitting(kind, 'levels', term.level)}")  # fmt: skip
    if getattr(loss, "whole_batch", False) and term.level != "image":
        raise UserError(f"{place}: {title['loss']} compares images; it needs level: image.")


def _check_teacher(recipe: Recipe, term: TermConfig, parts: _Parts, place: str) -> None:
    if parts.reads != "teacher":
        return
    if recipe.teacher is None:
        raise UserError(f"{place}: {parts.title['tokenizer']} reads the teacher, and the recipe has none. "
                        "Add `teacher: {momentum: 0.996}`, or `teacher: {row: NAME}`.")  # fmt: skip
    if getattr(parts.tokenizer, "needs_rows", False) and not hasattr(parts.decoder, "rows"):
        raise UserError(f"{place}: {parts.title['tokenizer']} reads the teacher's decoder position by position, which "
                        f"{parts.title['decoder']} cannot.{_with('decoder', 'rows')}")  # fmt: skip
    if recipe.teacher.row is not None and getattr(parts.tokenizer, "needs_head", False):
        raise UserError(f"{place}: {parts.title['tokenizer']} reads the teacher's decoder, and a teacher of another row "
                        "has none. Use a moving average, `teacher: {row: null}`.")  # fmt: skip
    if recipe.teacher.sees == "hidden":
        check_hidden(recipe, term, parts.tokenizer, parts.title["tokenizer"], place)


def _check_masking(recipe: Recipe, term: TermConfig, parts: _Parts, place: str) -> None:
    masking, masker, decoder, title = recipe.encoder.masking, parts.masker, parts.decoder, parts.title
    if getattr(decoder, "needs_blocks", False) and not hasattr(masker, "blocks"):
        raise UserError(
            f"{place}: {title['decoder']} predicts blocks; {title['masker']} gives none.{_with('masker', 'blocks')}"
        )
    if recipe.encoder.attention == "causal" and term.level == "patch" and not hasattr(decoder, "rows"):
        raise UserError(f"{place}: with encoder.attention 'causal' a prediction may read its own position only, and "
                        f"{title['decoder']} mixes positions.{_with('decoder', 'rows')}")  # fmt: skip
    if masking == "drop" and term.level == "patch" and not decoder.restores_grid and "after" not in term.decoder:
        raise UserError(
            f"{place}: encoder.masking 'drop' encodes only visible patches; {title['decoder']} does not restore the grid."
            f"{_fitting('decoder', 'restores_grid', True)} Or use encoder.masking 'token'."
        )
    if (masking == "drop" or getattr(decoder, "needs_constant_count", False)) and not masker.constant_count:
        who, other = "encoder.masking 'drop'", " Or use encoder.masking 'token'."
        if masking != "drop":
            who, other = title["decoder"], ""
        raise UserError(
            f"{place}: {who} needs the same number of masked patches in every image; {title['masker']} "
            f"as configured varies it.{_fitting('masker', 'constant_count', True)}{other}"
        )


def _check_views(recipe: Recipe, term: TermConfig, parts: _Parts, teacher: EncoderConfig, place: str) -> None:
    names = list(recipe.views) or [ONLY]
    for key in ("views", "targets"):
        for view in getattr(term, key):
            if view not in names:
                raise unknown(f"{place}.{key}", "view", view, names)
    views, tokenizer = term.views or tuple(names), parts.title["tokenizer"]
    targets = term.targets or views
    if term.level == "patch" and set(views) != set(targets):
        raise UserError(f"{place}: level patch compares a view with itself, so views and targets must be the same. "
                        f"Use targets: [{', '.join(views)}].")  # fmt: skip
    if parts.reads == "student":
        if sum(recipe.views[name].count if name in recipe.views else 1 for name in views) < 2:
            raise UserError(
                f"{place}: {tokenizer} compares views; the term needs at least two, e.g. one with count: 2."
            )
        if not set(targets) <= set(views):
            raise UserError(f"{place}: {tokenizer} has the predictions of views as targets; name them in `views` too.")
    for name in [name for name in recipe.views if name in (*views, *targets)]:
        view = recipe.views[name]
        if view.share != 1.0:
            small = f"{place}: view '{name}' has share {view.share:g}"
            encoders = (
                [recipe.encoder] if parts.reads != "teacher" or name not in targets else [recipe.encoder, teacher]
            )
            if any(encoder.relative_positions != "none" for encoder in encoders):
                raise UserError(f"{small}; relative positions need share 1.")
            if any(encoder.stages for encoder in encoders):
                raise UserError(f"{small}; a Swin's windows need share 1.")
            if view.masked or term.level == "patch":
                raise UserError(f"{small}; masks and patch terms need share 1. Or use `masked: false` at level image.")
        if term.level == "patch" and not view.masked:
            raise UserError(
                f"{place}: view '{name}' has masked: false, and level patch predicts where the masker says."
            )


def _check_use_of_views(recipe: Recipe, place: str) -> None:
    """Every view belongs to a term, and a mask token to a view that the student sees masked."""
    predicted = {view for term in recipe.terms.values() for view in (term.views or recipe.views)}
    used = predicted | {view for term in recipe.terms.values() for view in term.targets}
    for name in recipe.views:
        if name not in used:
            raise UserError(f"{place}: views.{name}: no term uses it.{nearest(name, used)}")
    if recipe.encoder.masking == "token" and recipe.views and not any(recipe.views[name].masked for name in predicted):
        raise UserError(f"{place}: no view is masked, so encoder.masking must be 'none', not 'token'.")


def _check_strides(recipe: Recipe, built: Iterable[_Parts], place: str) -> None:
    """A loader renders one image of another size beside the encoder's."""
    patch = recipe.encoder.patch
    found = {parts.title["tokenizer"]: parts.tokenizer for parts in built}
    strides = {
        title: part.stride for title, part in found.items() if getattr(part, "stride", None) not in (None, patch)
    }
    for title, stride in strides.items():
        if found[title].trained:
            raise UserError(
                f"{place}: {title} is trained on the encoder's images, so it cannot have a stride of its own."
            )
        own = f"{place}: {title} reads images of its own, {stride} pixels per token where the encoder has {patch};"
        if recipe.views:
            raise UserError(f"{own} a recipe with `views:` renders none. Use encoder.patch {stride}.")
    if len(set(strides.values())) > 1:
        raise UserError(
            f"{place}: {' and '.join(strides)} read images of different sizes; a step renders one besides the encoder's."
        )


def _check_on_grid(recipe: Recipe, parts: _Parts, teacher: EncoderConfig, place: str) -> int:
    """Draw masks and build the tokenizer once: what depends on the number of patches fails here. Returns the width."""
    masking, title, masker, tokenizer = recipe.encoder.masking, parts.title, parts.masker, parts.tokenizer
    grid = PatchGrid.of(recipe.data.size, recipe.encoder.patch)
    unfit = (ValueError, RuntimeError, MemoryError)  # the last two for a size that exceeds memory
    try:
        masks = masker(8, (grid.rows, grid.columns), torch.Generator().manual_seed(0))
    except unfit as error:
        raise UserError(f"{place}: {title['masker']} fails in this size: {error}") from error
    try:
        with torch.random.fork_rng(devices=[]):  # on the device "meta" random numbers would import half of torch
            if tokenizer.trained:
                tokenizer.build(grid)
            if parts.reads == "teacher":
                tokenizer.build(teacher.dim, teacher.depth)
                _check_taps(tokenizer.taps(), teacher, title["tokenizer"], place)
            elif parts.reads == "student":
                tokenizer.build(recipe.encoder.dim, recipe.encoder.depth)
        width = int(tokenizer.width(grid))
    except unfit as error:
        raise UserError(f"{place}: {title['tokenizer']} fails in this size: {error}") from error
    if masking == "none" and masks.any():
        raise UserError(
            f"{place}: {title['masker']} masks patches, and encoder.masking is 'none'. Use 'token' or 'drop'."
        )
    if getattr(masker, "predict", "masked") != "all" and not masks.any():
        raise UserError(f"{place}: {title['masker']} masks nothing, so it needs predict: all.")
    if masking == "drop" and masks.all():
        raise UserError(f"{place}: {title['masker']} masks every patch; encoder.masking 'drop' needs visible ones.")
    return width


def _check_decoder(recipe: Recipe, name: str, parts: _Parts, widths: dict[str, int], place: str) -> None:
    """Without building it: that would import timm."""
    spec = recipe.terms[name].decoder
    other = spec.get("same_as")
    if other is not None:
        _check_shared(place, parts, spec, {"this one": widths[name], f"term '{other}'": widths[other]})
    elif getattr(parts.decoder, "needs_last", False):
        raise UserError(f"{place}: {parts.title['decoder']} predicts with another term's decoder; name that term in "
                        "`decoder.same_as`.")  # fmt: skip
    try:
        if hasattr(parts.decoder, "taps"):
            _check_taps(parts.decoder.taps(recipe.encoder.depth), recipe.encoder, parts.title["decoder"], place)
        if hasattr(parts.decoder, "check"):
            parts.decoder.check(width_read(recipe, name, widths))
    except ValueError as error:
        raise UserError(f"{place}: {parts.title['decoder']} does not suit the encoder: {error}") from error


def _check_taps(blocks: tuple[int, ...], encoder: EncoderConfig, title: str, place: str) -> None:
    """Blocks of a Swin's earlier stages have another grid and another width."""
    first = sum(encoder.stages[:-1])
    if earlier := [block for block in blocks if block < first]:
        raise UserError(f"{place}: {title} reads block {earlier[0]} of the encoder, which has another grid and width than "
                        f"its last stage; allowed: blocks {first} to {encoder.depth - 1}.")  # fmt: skip


def _check_shared(place: str, parts: _Parts, spec: dict[str, Any], widths: dict[str, int]) -> None:
    (mine, own), (other, theirs) = widths.items()
    if own != theirs:
        raise UserError(f"{place}.decoder.same_as: {other} predicts {theirs} values, {mine} {own}; "
                        "give both the same tokenizer.")  # fmt: skip
    if without_links(spec) and not getattr(parts.decoder, "needs_last", False):
        raise UserError(f"{place}.decoder.same_as: {parts.title['decoder']} shares no layers (it does not say `needs_last`); "
                        "write `same_as` alone to share the whole decoder.")  # fmt: skip
