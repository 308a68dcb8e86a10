"""`show tokens`: images, the codes that a tokenizer gives them, what its decoder makes of the codes, and how they are used."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mimbench.config.schema import DataConfig
from mimbench.data.loading import Keyed
from mimbench.data.views import Images, normalize, to_unit
from mimbench.errors import UserError
from mimbench.models.codes import use_of
from mimbench.parts import Batch, PatchGrid
from mimbench.pretrain.terms import specs_of, tokenizer_side
from mimbench.pretrain.tokenizer import make_tokenizer
from mimbench.report.colors import ACCENT
from mimbench.run.weights import parent_weights, with_imported_files
from mimbench.show.colors import of_codes
from mimbench.show.images import as_pictures, run_data, shown_images
from mimbench.show.sheet import Sheet, Strip, write_sheet
from mimbench.show.subject import Subject
from mimbench.store.files import file_name
from mimbench.store.results import RunFolder
from mimbench.store.weights import load_weights

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COUNTED = 512  # images whose codes say how the codebook is used


@torch.no_grad()
def show_tokens(subject: Subject, given: str | None, shown: int) -> Path:
    tokenizer, grid, data, side = _tokenizer_of(subject, given)
    images = shown_images(data, given, max(COUNTED, shown), subject.store.cache)
    batch = _batch(images, side)
    codes = tokenizer(batch, grid)  # (B, N)
    pictures = as_pictures(images.plain(range(min(shown, len(images)))))
    vocabulary = tokenizer.width(grid)
    cells = codes[:shown].unflatten(1, (grid.rows, grid.columns))
    strips = [Strip("image", pictures), Strip("tokens", list(of_codes(cells, vocabulary)))]
    if hasattr(tokenizer, "decode"):
        decoded = tokenizer.decode(codes[:shown], {k: v[:shown] for k, v in batch.items()}, grid)
        strips.append(Strip("decoded from the tokens", as_pictures(decoded)))
    use, faults = use_of(codes, vocabulary)
    warning = "".join(f" Warning: {fault}." for fault in faults)
    without = "" if hasattr(tokenizer, "decode") else " This tokenizer has no decoder to images."
    note = (
        f"Equal colors are equal tokens. Of {vocabulary:,} codes {100 * use['codes_used']:.0f} % occur in {len(images):,} "
        f"images of {file_name(data.name)}; perplexity {use['perplexity']:.1f}.{warning}{without}"
    )
    plots = [functools.partial(_plot_use, shares=code_shares(codes, vocabulary))]
    sheet = Sheet(f"Tokens: {subject.title}", note, strips, plots=plots)
    return write_sheet(sheet, subject.path("tokens"), data.name)


def code_shares(codes: Tensor, vocabulary: int) -> np.ndarray:
    """How often each code occurs, the most frequent first; sums to 1."""
    counts = codes.flatten().bincount(minlength=vocabulary).sort(descending=True).values
    shares: np.ndarray = (counts / counts.sum()).numpy()
    return shares


def _batch(images: Images, side: int | None) -> Batch:
    """What a tokenizer reads: with a stride of its own, images of its own size."""
    found = Keyed(images, 0, tokenizer_side=side).__getitems__([(0, index) for index in range(len(images))])
    raw = to_unit(found["raw"] if side is None else found["tokenizer_raw"])
    return {"raw": raw, "image": normalize(raw), "label": found["label"]}


def _tokenizer_of(subject: Subject, given: str | None) -> tuple[Any, PatchGrid, DataConfig, int | None]:
    """With the patches and the data of its run, and the side of its images where that is its own."""
    trained = subject.run(("tokenizer",))
    if trained is not None:
        folder, spec = subject.finished(("tokenizer",), "tokenizer"), trained.spec()
        data = run_data(spec, given)
        grid = PatchGrid.of(data.size, spec["patch"])
        tokenizer = make_tokenizer(spec["tokenizer"], grid, spec["seed"])
        tokenizer.load_state_dict(load_weights(parent_weights(subject.store, folder.name)[0]))
        return _of_codes(tokenizer, spec["tokenizer"]), grid, data, None
    pretrained = subject.run(("pretrain",))
    if pretrained is None:
        raise UserError(f"{subject.title}: has no tokenizer: nothing was pre-trained.")
    return _untrained(subject, pretrained, given)


def _untrained(subject: Subject, folder: RunFolder, given: str | None) -> tuple[Any, PatchGrid, DataConfig, int | None]:
    """The first of a recipe's tokenizers that gives codes by itself."""
    spec = folder.spec()
    recipe, data = with_imported_files(subject.store, spec["recipe"]), run_data(spec, given)
    grid = PatchGrid.of(data.size, recipe["encoder"]["patch"])
    for term in specs_of(recipe).values():
        tokenizer = make_tokenizer(term["tokenizer"], grid, spec["seed"])
        if getattr(tokenizer, "reads", "views") == "views":
            return _of_codes(tokenizer, term["tokenizer"]), grid, data, tokenizer_side(recipe)
    named = next(iter(specs_of(recipe).values()))["tokenizer"]["type"]
    raise UserError(
        f"{subject.title}: tokenizer '{named}' reads the model as it trains; see `mimbench show predictions`."
    )


def _of_codes(tokenizer: Any, spec: dict[str, Any]) -> Any:
    if tokenizer.target != "codes" or "patch" not in tokenizer.levels:
        what = "one target per image" if tokenizer.target == "codes" else tokenizer.target
        raise UserError(
            f"tokenizer '{spec['type']}' gives {what}, not one code per patch; see `mimbench show predictions`."
        )
    return tokenizer.eval()


def _plot_use(axes: Axes, shares: np.ndarray) -> None:
    axes.fill_between(np.arange(1, len(shares) + 1), 100 * shares, step="mid", color=ACCENT, linewidth=0)
    axes.axhline(100 / len(shares), color="#8c959f", linewidth=0.8, linestyle="--")
    axes.text(len(shares), 100 / len(shares), "uniform", ha="right", va="bottom", fontsize=7, color="#8c959f")
    axes.set_title("use of each code, the most frequent first", fontsize=9, fontweight="normal")
    axes.set_ylabel("% of patches", fontsize=8)
    axes.set_xlim(1, len(shares))
    axes.set_ylim(0)
    axes.tick_params(labelsize=8, length=0)
    axes.grid(False)
