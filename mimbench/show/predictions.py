"""`show predictions`: what the encoder sees, what is predicted, and the target."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mimbench.config.schema import from_spec
from mimbench.config.terms import ViewConfig
from mimbench.data.loading import Keyed
from mimbench.data.views import to_unit
from mimbench.errors import UserError
from mimbench.parts import Batch, Masks, PatchGrid
from mimbench.pretrain.fit import to_device
from mimbench.pretrain.step import Pretraining
from mimbench.pretrain.terms import Term, specs_of, tokenizer_side
from mimbench.run.objective import finished_objective
from mimbench.runtime import Runtime
from mimbench.show.colors import BLANK, Projection, of_codes
from mimbench.show.images import as_pictures, run_data, shown_images
from mimbench.show.masks import over_images, predicted_patches
from mimbench.show.sheet import Sheet, Strip, write_sheet
from mimbench.show.subject import Subject
from mimbench.store.files import file_name

TOGETHER = 64  # images that go through the model at once: some targets are functions of a whole batch


@torch.no_grad()
def show_predictions(subject: Subject, given: str | None, shown: int) -> Path:
    run = subject.run(("pretrain",))
    if run is not None and not _predicts_patches(run.spec()["recipe"]):
        raise UserError(
            f"{subject.title}: compares whole images, so no patch is predicted; see `mimbench show features`."
        )
    folder = subject.finished(("pretrain",), "prediction to show: nothing was pre-trained")
    spec, objective = folder.spec(), finished_objective(subject.store, folder)
    recipe, data = spec["recipe"], run_data(spec, given)
    views = {name: from_spec(ViewConfig, view) for name, view in recipe.get("views", {}).items()}
    images = shown_images(data, given, max(TOGETHER, shown), subject.store.cache)
    keyed = Keyed(images, spec["seed"], views, recipe["encoder"]["patch"], tokenizer_side(recipe))
    batch = keyed.__getitems__([(0, index) for index in range(len(images))])
    # masks of the step after the last one: the training has not seen them
    (micro,) = objective.prepare(batch, recipe["schedule"]["steps"], Runtime())
    micro = to_device(micro, torch.device("cpu"))
    strips, said = _strips(objective, micro, shown)
    note = (
        f"Held-out images of {file_name(data.name)}. {said}"
        if given is None
        else f"Images of {file_name(data.name)}. {said}"
    )
    sheet = Sheet(f"Predictions: {subject.title}", note, strips)
    return write_sheet(sheet, subject.path("predictions"), data.name)


def _predicts_patches(recipe: dict[str, Any]) -> bool:
    return any(term.get("level", "patch") == "patch" for term in specs_of(recipe).values())


def _strips(objective: Pretraining, micro: dict[str, Any], shown: int) -> tuple[list[Strip], str]:
    """Of each term that predicts patches, on the first view that it predicts."""
    strips: list[Strip] = []
    sentences: list[str] = []
    seen = ""
    for term, prediction, target, masks, _ in objective.compared(micro):
        if term.level != "patch":
            continue
        view = next(student for student, source in term.pairs if student == source)
        batch = {key: to_unit(value) if key == "raw" else value for key, value in micro["views"][view].items()}
        if view != seen:
            pictures = as_pictures(batch["raw"][:shown])
            strips.append(Strip("image", pictures))
            strips.append(
                Strip("the encoder sees", _hidden(pictures, _first(masks[view], shown), objective.encoder.grid))
            )
            seen = view
        named = f"{term.name}: " if len(objective.terms) > 1 else ""
        more, sentence = compared_strips(
            term, prediction[view], target[view], masks[view], batch, objective.encoder.grid, shown
        )
        strips += [Strip(f"{named}{strip.label}", strip.cells, strip.captions) for strip in more]
        sentences.append(f"{named}{sentence}")
    return strips, " ".join(dict.fromkeys(sentences))


def compared_strips(
    term: Term, prediction: Tensor, target: Tensor, masks: Masks, batch: Batch, grid: PatchGrid, shown: int
) -> tuple[list[Strip], str]:
    """Prediction and target as images where the tokenizer can decode them, else as colors; and what the captions say."""
    if term.tokenizer.target == "features":
        return _of_features(term, prediction, target, masks, batch, grid, shown)
    codes = target if term.tokenizer.target == "codes" else target.argmax(-1)  # (B, N)
    full = placed(prediction.argmax(-1), codes, masks)
    right = (full == codes) & _predicted(masks)
    captions = [f"{int(r.sum())} of {int(p.sum())} right" for r, p in zip(right, _predicted(masks), strict=True)][
        :shown
    ]
    said = "Tokens are shown as what the tokenizer's decoder makes of them; where nothing is predicted, the target's stand."
    pictures = _decoded(term, full, codes, batch, grid, shown)
    if pictures is None:
        said = "Equal colors are equal tokens; gray is not predicted."
        predicted, wanted = (_code_map(some[:shown], prediction.shape[1], grid) for some in (full, codes))
        pictures = _only(predicted, masks, grid, shown), wanted
    return [Strip("predicted tokens", pictures[0], captions), Strip("target tokens", pictures[1])], said


def _code_map(codes: Tensor, vocabulary: int, grid: PatchGrid) -> list[np.ndarray]:
    return list(of_codes(codes.unflatten(1, (grid.rows, grid.columns)), vocabulary))


def _of_features(
    term: Term, prediction: Tensor, target: Tensor, masks: Masks, batch: Batch, grid: PatchGrid, shown: int
) -> tuple[list[Strip], str]:
    full = placed(prediction.float(), target.float(), masks)  # (B, N, D)
    decoded = _decoded(term, full, target.float(), batch, grid, shown)
    if decoded is not None:
        predicted, wanted = decoded
        same = np.allclose(wanted, as_pictures(batch["raw"][:shown]), atol=1e-3)
        strips = [Strip("prediction", predicted), *([] if same else [Strip("target", wanted)])]
        return strips, "Where nothing is predicted, the image stands."
    projection = Projection(target.float().flatten(0, 1))
    shape = (-1, grid.rows, grid.columns, 3)
    colors = [list(projection(x[:shown]).reshape(shape)) for x in (full, target)]
    cosine = F.cosine_similarity(full, target.float(), dim=-1)  # (B, N)
    means = [float(c[p].mean()) if p.any() else float("nan") for c, p in zip(cosine, _predicted(masks), strict=True)]
    maps = _only(list(_gray(cosine[:shown]).reshape(shape)), masks, grid, shown)
    said = (
        f"Features as color: three principal components of the targets ({100 * projection.share:.0f} % of their variance). "
        "Cosine: black is 0 or less, white is 1."
    )
    captions = [f"mean {mean:.2f}" for mean in means[:shown]]
    return [
        Strip("predicted features", _only(colors[0], masks, grid, shown)),
        Strip("target features", colors[1]),
        Strip("cosine of the two", maps, captions),
    ], said


def placed(prediction: Tensor, target: Tensor, masks: Masks) -> Tensor:
    """(B, N, ...): the predictions (M, ...) at their places, the target elsewhere. Of blocks that overlap, one is shown."""
    full = target.flatten(0, 1).clone()
    full[masks.predicted] = prediction.to(full.dtype)
    return full.view(target.shape)


def _decoded(
    term: Term, full: Tensor, target: Tensor, batch: Batch, grid: PatchGrid, shown: int
) -> tuple[list[np.ndarray], list[np.ndarray]] | None:
    decode = getattr(term.tokenizer, "decode", None)
    if decode is None:
        return None
    some = {key: value[:shown] for key, value in batch.items()}
    return as_pictures(decode(full[:shown], some, grid)), as_pictures(decode(target[:shown], some, grid))


def _predicted(masks: Masks) -> Tensor:
    return torch.from_numpy(predicted_patches(masks))


def _only(cells: list[np.ndarray], masks: Masks, grid: PatchGrid, shown: int) -> list[np.ndarray]:
    """Blank where nothing is predicted."""
    shape = (-1, grid.rows, grid.columns, 1)
    return list(np.where(predicted_patches(masks)[:shown].reshape(shape), np.stack(cells), BLANK))


def _gray(values: Tensor) -> np.ndarray:
    shades: np.ndarray = values.clamp(0, 1).unsqueeze(-1).expand(*values.shape, 3).numpy()
    return shades


def _first(masks: Masks, count: int) -> Masks:
    """Of the first images."""
    patches = masks.masked.shape[1]
    blocks = None if masks.blocks is None else masks.blocks[:count]
    return Masks(masks.masked[:count], masks.predicted[masks.predicted < count * patches], None, 0, blocks)


def _hidden(pictures: list[np.ndarray], masks: Masks, grid: PatchGrid) -> list[np.ndarray]:
    """The images with blank patches where they are masked."""
    nothing = Masks(masks.masked, masks.predicted[:0], None, 0)
    return over_images(pictures, nothing, grid)
