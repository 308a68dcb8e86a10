"""A grid -> the graph of runs it needs: expand, share, check pairings, estimate cost."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import torch

from mimbench import env, protocols, registry
from mimbench.config.schema import DataConfig, EncoderConfig, Grid, Recipe, Row, as_spec
from mimbench.data.sources import images
from mimbench.data.sources.images import segmentation_facts
from mimbench.errors import UserError
from mimbench.parts import Grid as Patches
from mimbench.store.files import fingerprint
from mimbench.store.results import RunFolder, Store, run_name

TOKENIZER_VERSION = 1  # raised when the numbers of a kind of run change
PRETRAIN_VERSION = 1
# as `make ablations` had it in bf16 on a core of an AMD EPYC (seconds a run: 127 pre-training, 53 fine-tuning, 98
# segmentation); used only until real costs are recorded
FLOPS_PER_SECOND = 7e10


@dataclass(frozen=True)
class Planned:
    """One run: what it computes, and what must be there first."""

    name: str
    spec: dict[str, Any]
    parents: tuple[str, ...]

    @property
    def kind(self) -> str:
        return self.spec["kind"]


@dataclass
class Plan:
    """The runs of a grid in the order they are wanted: seed by seed, parents first. Rows share runs."""

    grid: Grid
    columns: list[protocols.ProtocolSpec]
    precision: str  # where it is `auto`
    runs: dict[str, Planned] = field(default_factory=dict)
    rows: dict[str, dict[int, dict[str, str]]] = field(default_factory=dict)  # row -> seed -> kind -> run
    keys: dict[str, str] = field(default_factory=dict)  # row -> fingerprint of what it computes, whatever the seed
    uses: dict[str, int] = field(default_factory=dict)

    def add(self, spec: dict[str, Any], parents: tuple[str, ...] = ()) -> str:
        name = run_name(spec)
        self.runs.setdefault(name, Planned(name, spec, parents))
        self.uses[name] = self.uses.get(name, 0) + 1
        return name

    def of_seed(self, seed: int) -> set[str]:
        return {name for row in self.rows.values() for name in row.get(seed, {}).values()}

    def record(self) -> dict[str, Any]:
        """What the report needs to know of the grid, as JSON: all rows of the file, runs of those that were chosen."""
        grid = self.grid
        changed = f"Changed on the command line: `{' '.join(grid.sets)}`." if grid.sets else ""
        columns = [
            {"protocol": c.name, "label": c.label, "metric": c.metric, "unit": c.unit, "fingerprint": c.fingerprint}
            for c in self.columns
        ]
        rows = [
            {"name": r.name, "label": r.label, "description": describe(r), "paper": r.paper, "key": self.keys[r.name],
             "reference": r.reference, "runs": {str(s): runs for s, runs in self.rows[r.name].items()}}
            for r in grid.rows
        ]  # fmt: skip
        return {
            "name": grid.name, "scale": grid.scale, "title": grid.title, "config": grid.config,
            "note": " ".join(n for n in (grid.note, grid.scale_note, changed) if n),
            "base": grid.reference, "base_label": grid.reference_label, "primary": grid.primary,
            "seeds": list(grid.seeds), "columns": columns, "rows": rows,
        }  # fmt: skip


def describe(row: Row) -> str:
    """A row in a few words: what is told what, behind which mask, for how long."""
    recipe = row.recipe
    if not recipe.pretrain:
        return "no pre-training"
    where = "all" if recipe.loss.get("over") == "all" else "masked"
    masker = "no" if recipe.masker["type"] == "none" else recipe.masker["type"]
    what = f"{recipe.tokenizer['type']}, {masker} masking, {recipe.loss['type']} over {where} positions"
    return f"{what}, {recipe.schedule.steps} steps"


class DataSets:
    """What is known of the data sets of one plan; a folder is surveyed once, not once a row."""

    def __init__(self) -> None:
        self._survey = functools.cache(images.survey)

    def facts(self, config: DataConfig) -> dict[str, Any]:
        return images.facts(config, self._survey)

    def counts(self, name: str) -> dict[str, int]:
        return images.counts(name, self._survey)

    def check_counts(self, name: str, wanted: dict[str, int | None], place: str) -> None:
        """Fail while planning where more images are asked for than there are."""
        there = self.counts(name)
        for split, count in wanted.items():
            if count is not None and count > there[split]:
                raise UserError(f"{place}: {count} {split} images asked for, {name} has {there[split]}.")


def make_plan(grid: Grid, *, on_gpus: bool = False) -> Plan:
    """All runs of all rows and seeds. Raises before any compute where parts do not fit together.

    `on_gpus`: they will be carried out on GPUs, whatever this machine has: `precision: auto` is what pays there.
    """
    precision = "bf16" if on_gpus or env.bf16_pays() else "fp32"
    overrides = grid.evaluation.overrides
    for name in overrides:
        if name not in grid.protocols:
            raise UserError(f"--set protocols.{name}: the grid has the protocols {', '.join(grid.protocols)}.")
    place = f"{grid.config}: protocols"
    columns = [protocols.load(p, grid.protocol_scale, place, overrides.get(p), precision) for p in grid.protocols]
    _check_crop(columns, grid)
    plan = Plan(grid, columns, precision, rows={row.name: {} for row in grid.rows})
    sets = DataSets()
    _check_neighbours(columns, grid, sets)
    for row in grid.rows:
        if row.name not in grid.left_out:
            check_pairing(row, grid, sets)
            _check_neck(columns, row, grid)
    bases = {row.name: _base_specs(row, grid, precision, sets) for row in grid.rows}
    evaluations = _evaluation_specs(grid, columns, sets)
    chosen = [row for row in grid.rows if row.name in grid.chosen]
    for row in grid.rows:
        trained = bases[row.name] if row.recipe.pretrain else None
        plan.keys[row.name] = fingerprint([trained, _evaluated(row.recipe.encoder), evaluations])
    for seed in grid.seeds:
        for row in chosen:
            plan.rows[row.name][seed] = _plan_row(plan, row, seed, bases[row.name], evaluations)
    return plan


def _check_crop(columns: list[protocols.ProtocolSpec], grid: Grid) -> None:
    """An encoder's positions are not stretched yet: what was pre-trained at a size is evaluated at that size."""
    size = grid.evaluation.data.size
    for column in columns:
        if column.settings.get("crop") not in (None, size):
            raise UserError(
                f"--set protocols.{column.name}.crop: must be {size}, the size of the pre-training images, or null."
            )


def _check_neighbours(columns: list[protocols.ProtocolSpec], grid: Grid, sets: DataSets) -> None:
    """The protocol's own numbers of neighbours are for labelled sets of all sizes; those that are asked for must be there."""
    evaluation = grid.evaluation
    for column in columns:
        if "neighbours" in evaluation.overrides.get(column.name, {}):
            most = max(column.settings["neighbours"])
            there = evaluation.labelled or sets.counts(evaluation.data.name)["labelled"]
            if most > there:
                raise UserError(
                    f"--set protocols.{column.name}.neighbours: must be at most {there} each, "
                    f"the labelled images of scale {grid.scale}, not {most}."
                )


def _check_neck(columns: list[protocols.ProtocolSpec], row: Row, grid: Grid) -> None:
    """The smallest map of a protocol's feature pyramid still has a pixel."""
    side = grid.evaluation.data.size // row.recipe.encoder.patch
    for column in columns:
        smallest = min(column.settings.get("rescales", [1]))
        if side * smallest < 1:
            raise UserError(
                f"{grid.config}: row '{row.name}': encoder.patch: {row.recipe.encoder.patch} pixels leave a grid of "
                f"{side} x {side}, and protocol '{column.name}' needs at least {round(1 / smallest)} a side."
            )


def _resolved(config: Any, precision: str) -> dict[str, Any]:
    spec = as_spec(config)
    return {**spec, "precision": precision} if spec["precision"] == "auto" else spec


def _base_specs(row: Row, grid: Grid, precision: str, sets: DataSets) -> dict[str, dict[str, Any]]:
    """The specs of a row's training runs without seed and parents."""
    recipe = row.recipe
    data = {**as_spec(recipe.data), **sets.facts(recipe.data)}
    training = _resolved(recipe.tokenizer_training, precision)
    count = training.pop("images")
    shared = {"threads": grid.threads}
    parts = {k: getattr(recipe, k) for k in ("tokenizer", "masker", "loss", "decoder")}
    full = {
        **parts,
        "encoder": as_spec(recipe.encoder),
        "data": data,
        "schedule": _resolved(recipe.schedule, precision),
    }
    return {
        "tokenizer": {"kind": "tokenizer", "version": TOKENIZER_VERSION, "tokenizer": recipe.tokenizer, "training": training,
                      "patch": recipe.encoder.patch, "data": {**data, "images": count or data["images"]}, **shared},
        "pretrain": {"kind": "pretrain", "version": PRETRAIN_VERSION, "recipe": full, **shared},
    }  # fmt: skip


def _evaluation_specs(grid: Grid, columns: list[protocols.ProtocolSpec], sets: DataSets) -> list[dict[str, Any]]:
    evaluation = grid.evaluation
    data = {**as_spec(evaluation.data), **sets.facts(evaluation.data)}
    counts = {"labelled": evaluation.labelled, "val": evaluation.val, "test": evaluation.test}
    sets.check_counts(evaluation.data.name, counts, f"scale {grid.scale}: evaluation")
    specs = []
    for column in columns:
        protocol = {
            "name": column.name,
            "version": column.version,
            "fingerprint": column.fingerprint,
            "settings": column.settings,
        }
        extra: dict[str, Any] = {}
        if column.name == "segmentation":
            source = evaluation.segmentation_data
            extra = {"segmentation_data": source, **segmentation_facts(source)}
        specs.append({"kind": column.name, "version": column.version, "protocol": protocol, "metric": column.metric,
                      "data": data, "counts": counts, "threads": grid.threads, **extra})  # fmt: skip
    return specs


def _plan_row(
    plan: Plan, row: Row, seed: int, bases: dict[str, dict[str, Any]], evaluations: list[dict[str, Any]]
) -> dict[str, str]:
    """One row at one seed: tokenizer, pre-training, evaluations, each an edge of the graph."""
    runs: dict[str, str] = {}
    parents: dict[str, str] = {}
    if row.recipe.pretrain:
        above: dict[str, str] = {}
        if _is_trained(row.recipe.tokenizer):
            runs["tokenizer"] = above["tokenizer"] = plan.add({**bases["tokenizer"], "seed": seed})
        spec = {**bases["pretrain"], "seed": seed, "parents": above}
        runs["pretrain"] = parents["encoder"] = plan.add(spec, tuple(above.values()))
    encoder = _evaluated(row.recipe.encoder)
    for spec in evaluations:
        name = plan.add({**spec, "encoder": encoder, "seed": seed, "parents": parents}, tuple(parents.values()))
        runs[spec["kind"]] = name
    return runs


def _evaluated(encoder: EncoderConfig) -> dict[str, Any]:
    """An encoder as evaluations see it: how it was masked, and its pre-training's drop path, are not theirs."""
    return {k: v for k, v in as_spec(encoder).items() if k not in ("masking", "drop_path")}


def _is_trained(tokenizer: dict[str, Any]) -> bool:
    return bool(registry.part_class("tokenizer", tokenizer["type"], "tokenizer").trained)


def check_pairing(row: Row, grid: Grid, sets: DataSets) -> None:
    """What cannot work together is said while planning, naming both parts."""
    recipe, place = row.recipe, f"{grid.config}: row '{row.name}'"
    if recipe.data.size != grid.evaluation.data.size:
        raise UserError(
            f"{place}: pre-trains at {recipe.data.size} px but is evaluated at {grid.evaluation.data.size} px."
        )
    if not recipe.pretrain:
        return
    tokenizer, loss, decoder = (
        registry.part_class(kind, getattr(recipe, kind)["type"], kind) for kind in ("tokenizer", "loss", "decoder")
    )
    target, expects = tokenizer.target, loss.expects
    if target != expects:
        raise UserError(
            f"{place}: tokenizer '{recipe.tokenizer['type']}' gives {target}, loss '{recipe.loss['type']}' expects {expects}."
        )
    if recipe.encoder.masking == "drop":
        if not decoder.restores_grid:
            raise UserError(
                f"{place}: encoder.masking 'drop' leaves the visible patches alone; decoder '{recipe.decoder['type']}' "
                "does not restore the grid. Use 'transformer', or masking 'token'."
            )
        if not registry.build("masker", recipe.masker).constant_count:
            raise UserError(
                f"{place}: encoder.masking 'drop' needs the same number of masked patches in every image; masker "
                f"'{recipe.masker['type']}' does not give that. Use 'random', or 'blockwise' with exact: true."
            )
    sets.check_counts(recipe.data.name, {"train": recipe.data.images}, f"{place}: data.images")
    sets.check_counts(
        recipe.data.name, {"train": recipe.tokenizer_training.images}, f"{place}: tokenizer_training.images"
    )
    crop = recipe.tokenizer_training.crop
    if crop is not None and (crop < 1 or crop % recipe.encoder.patch):
        raise UserError(
            f"{place}: tokenizer_training.crop: {crop} is no multiple of the patch of {recipe.encoder.patch} pixels."
        )
    _check_on_grid(recipe, place)


def _check_on_grid(recipe: Recipe, place: str) -> None:
    """Draw one mask and build the tokenizer once: what depends on the number of patches fails here."""
    side = recipe.data.size // recipe.encoder.patch
    masker = recipe.masker["type"]
    try:
        drawn = registry.build("masker", recipe.masker)(8, (side, side), torch.Generator().manual_seed(0))
        tokenizer = registry.build("tokenizer", recipe.tokenizer)
        if tokenizer.trained:
            with torch.random.fork_rng(devices=[]):  # not on the device "meta": its random numbers import half of torch
                tokenizer.build(Patches(side, side, recipe.encoder.patch))
    except ValueError as error:
        raise UserError(f"{place}: {error}") from error
    except (RuntimeError, MemoryError) as error:  # torch's and numpy's, for a size that no memory holds
        parts = f"masker '{masker}' or tokenizer '{recipe.tokenizer['type']}'"
        raise UserError(f"{place}: {parts} cannot be made in this size: {error}") from error
    if recipe.loss["over"] == "masked" and not drawn.any():
        raise UserError(f"{place}: masker '{masker}' masks nothing, so loss '{recipe.loss['type']}' needs over: all.")
    if recipe.encoder.masking == "drop" and drawn.all():
        raise UserError(f"{place}: masker '{masker}' hides every patch, and encoder.masking 'drop' would see none.")


# what is done, and what is left to pay


@dataclass(frozen=True)
class Estimate:
    kind: str
    runs: int
    shared: int
    done: int
    seconds: float  # of one process, for what is not done
    measured: bool  # from recorded costs, not from the formula


def estimate(plan: Plan, store: Store) -> list[Estimate]:
    """By kind of run, with the time the rest will take one process."""
    kinds: dict[str, list[Planned]] = {}
    for run in plan.runs.values():
        kinds.setdefault(run.kind, []).append(run)
    rows = []
    for kind, runs in kinds.items():
        finished = {r.name for r in runs if store.run(r.name).done()}
        done, left = [r for r in runs if r.name in finished], [r for r in runs if r.name not in finished]
        recorded = [seconds for r in done[:20] if (seconds := _recorded(store.run(r.name))) is not None]
        each = sum(recorded) / len(recorded) if recorded else None
        seconds = sum(each if each is not None else _guess(r.spec, plan) for r in left)
        shared = sum(plan.uses[r.name] > 1 for r in runs)
        rows.append(Estimate(kind, len(runs), shared, len(done), seconds, each is not None))
    return rows


def _recorded(folder: RunFolder) -> float | None:
    cost = folder.cost()
    return cost.get("seconds") if cost else None


def _guess(spec: dict[str, Any], plan: Plan) -> float:
    """Seconds from the number of images and the size of the encoder; three passes' worth a training image."""
    if spec["kind"] == "tokenizer":
        return spec["training"]["steps"] * spec["training"]["batch"] / 2000
    encoder = spec["recipe"]["encoder"] if spec["kind"] == "pretrain" else spec["encoder"]
    data = spec["recipe"]["data"] if spec["kind"] == "pretrain" else spec["data"]
    tokens = (data["size"] // encoder["patch"]) ** 2 + 1
    flops = 2 * tokens * encoder["depth"] * (12 * encoder["dim"] ** 2 + 2 * tokens * encoder["dim"])
    if spec["kind"] == "pretrain":
        schedule = spec["recipe"]["schedule"]
        images = 3 * schedule["steps"] * schedule["batch"]
    else:
        settings, counts = spec["protocol"]["settings"], spec["counts"]
        trained = (
            (counts["labelled"] or 1000) * settings["epochs"] * 3 * len(settings["learning_rates"])
            if "clip" in settings
            else 0
        )
        heavier = 5 if spec["kind"] == "segmentation" else 1
        images = heavier * trained + sum(c or 1000 for c in counts.values())
    return images * flops / FLOPS_PER_SECOND


def disk_bytes(plan: Plan) -> int:
    """Roughly what the runs' weights will take: encoder in fp32, for a pre-training and for each fine-tuned rate."""
    total = 0
    for run in plan.runs.values():
        if run.kind in ("linear_probe", "knn"):
            continue
        encoder = (
            run.spec["recipe"]["encoder"]
            if run.kind == "pretrain"
            else run.spec.get("encoder", {"depth": 1, "dim": 64})
        )
        copies = len(run.spec["protocol"]["settings"]["learning_rates"]) if "protocol" in run.spec else 1
        total += copies * 4 * 12 * encoder["depth"] * encoder["dim"] ** 2
    return total
