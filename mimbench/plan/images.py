"""What a grid's data sets offer, and where they lie."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from mimbench.config.schema import Counts, Grid
from mimbench.data.sources import Sources
from mimbench.data.sources.base import Source
from mimbench.errors import UserError
from mimbench.kinds import KINDS


def fitting(grid: Grid, sources: Sources) -> tuple[Grid, list[str]]:
    """The grid without protocols that its data cannot serve, and what to say of its data sets."""
    if grid.data is not None:
        grid = _with_what_there_is(grid, sources(grid.data))
    evaluation = grid.evaluation
    names = {evaluation.data.name, *(row.recipe.data.name for row in grid.rows if row.recipe.pretrain)}
    notes = [sentence for name in sorted(names) for sentence in sources(name).warnings()]
    skipped = [name for name in grid.protocols if name in KINDS and KINDS[name].reads_masks]
    if not skipped or evaluation.segmentation_data or sources(evaluation.data.name).has_masks():
        return grid, notes
    kept = tuple(name for name in grid.protocols if name not in skipped)
    why = f"{', '.join(skipped)} skipped: {evaluation.data.name} has no masks, and evaluation.segmentation_data is not set."
    if not kept:
        raise UserError(f"{grid.config}: protocols: {why} No protocol is left.")
    settings = {name: chosen for name, chosen in grid.settings.items() if name not in skipped}
    primary = None if grid.primary and grid.primary.get("protocol") in skipped else grid.primary
    return replace(grid, protocols=kept, settings=settings, primary=primary), [why, *notes]


def _with_what_there_is(grid: Grid, images: Source) -> Grid:
    """As many images as the scale asks for, or all: its counts are those of other images."""
    least = lambda wanted, available: wanted if wanted is None else min(wanted, available)
    within = lambda wanted, available: Counts(
        **{split: least(count, available[split]) for split, count in vars(wanted).items()}
    )
    evaluation, counts = grid.evaluation, images.counts()
    labels, masks = within(evaluation.counts(), counts), evaluation.segmentation_counts()
    if images.has_masks():
        masks = within(masks, images.segmentation_counts())
    evaluation = replace(evaluation, labeled=labels.labeled, val=labels.val, test=labels.test, segmentation=masks)
    rows = []
    for row in grid.rows:
        data = replace(row.recipe.data, images=least(row.recipe.data.images, counts["train"]))
        rows.append(replace(row, recipe=replace(row.recipe, data=data)))
    return replace(grid, evaluation=evaluation, rows=tuple(rows))


def available(grid: Grid, evaluations: Iterable[str], sources: Sources) -> dict[str, dict[str, int]]:
    """How many images each split has, with labels and, where an evaluation reads them, with masks."""
    found = {"labels": sources(grid.evaluation.data.name).counts()}
    if any(KINDS[kind].reads_masks for kind in evaluations):
        masks = grid.evaluation.segmentation_data or grid.evaluation.data.name
        found["masks"] = sources(masks).segmentation_counts()
    return found


def places(grid: Grid, evaluations: dict[str, dict[str, Any]], sources: Sources) -> dict[str, str]:
    """Manifest -> where the files lie, for all data sets of a grid that are files."""
    found = {}
    evaluation = grid.evaluation
    for config in (evaluation.data, *(row.recipe.data for row in grid.rows if row.recipe.pretrain)):
        if place := sources(config.name).place():
            found[sources(config.name).facts(config)["manifest"]] = place
    masks = evaluation.segmentation_data or evaluation.data.name
    for spec in evaluations.values():
        if "segmentation_manifest" in spec and (place := sources(masks).place()):
            found[spec["segmentation_manifest"]] = place
    return found
