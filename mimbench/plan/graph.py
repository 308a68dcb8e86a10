"""A grid -> the graph of the runs it needs. Rows share runs."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from mimbench import env, protocols, registry
from mimbench.config.schema import ONLY, Grid, Recipe, Row, as_spec
from mimbench.data.sources import Sources, source
from mimbench.errors import check_known
from mimbench.kinds import KINDS, PROTOCOLS, builds_on, in_order
from mimbench.plan.checkpoints import Origin, with_their_encoders
from mimbench.plan.files import with_files_by_content
from mimbench.plan.images import available, fitting, places
from mimbench.plan.pairing import OF_TOKENIZER, architecture, check_protocols, check_row, edges, other_references
from mimbench.plan.tokenizers import needs_teacher
from mimbench.store.files import fingerprint, sha256_file
from mimbench.store.results import Store, run_name

Trainings = dict[str, dict[str, dict[str, Any]]]  # specs by row and role


@dataclass(frozen=True)
class Planned:
    """One run, and what it computes."""

    name: str
    spec: dict[str, Any]

    @property
    def kind(self) -> str:
        return self.spec["kind"]

    @property
    def parents(self) -> tuple[str, ...]:
        """The runs whose weights, or whose choice, it needs."""
        return tuple(self.spec.get("parents", {}).values())


@dataclass
class Plan:
    """The runs of a grid in the order of computing: seed by seed, parents first."""

    grid: Grid
    columns: list[protocols.ProtocolSpec]
    precision: str  # what `precision: auto` means
    runs: dict[str, Planned] = field(default_factory=dict)
    rows: dict[str, dict[int, dict[str, str]]] = field(default_factory=dict)  # row -> seed -> kind -> run
    keys: dict[str, str] = field(default_factory=dict)  # row -> fingerprint of what it computes, without the seed
    files: dict[str, Origin] = field(default_factory=dict)  # files that are not ours, by their sha256
    uses: dict[str, int] = field(default_factory=dict)
    flops: dict[str, float] = field(default_factory=dict)  # of training runs, where they were counted
    places: dict[str, str] = field(default_factory=dict)  # where data sets lie, by their manifest
    available: dict[str, dict[str, int]] = field(default_factory=dict)  # images by split, of `labels` and `masks`
    notes: list[str] = field(default_factory=list)  # sentences for the user: on stderr, and in the report

    def add(self, spec: dict[str, Any]) -> str:
        name = run_name(spec)
        data = spec["recipe"]["data"] if "recipe" in spec else spec.get("data", {})
        used = {data.get("manifest"), spec.get("segmentation_manifest")}
        if places := {manifest: place for manifest, place in self.places.items() if manifest in used}:
            spec = {**spec, "places": places}
        self.runs.setdefault(name, Planned(name, spec))
        self.uses[name] = self.uses.get(name, 0) + 1
        return name

    def of_seed(self, seed: int) -> set[str]:
        return {name for row in self.rows.values() for name in row.get(seed, {}).values()}


def make_plan(grid: Grid, *, on_gpus: bool = False) -> Plan:
    """All runs of all rows and seeds. Raises before any compute where parts do not fit together.

    `on_gpus`: the runs will be on GPUs, even if this machine has none: `precision: auto` is bf16.
    """
    grid, origins, guessed = with_their_encoders(grid)
    grid, files = with_files_by_content(grid)
    precision = "bf16" if on_gpus or env.bf16_pays() else "fp32"
    sources = functools.cache(source)
    grid, notes = fitting(grid, sources)
    measured = _protocols(grid, precision)
    columns = [measured[name] for name in grid.protocols]
    check_protocols(measured.values(), grid, sources)
    for row in grid.rows:
        check_row(row, measured.values(), grid, sources)
    notes = [*guessed, *notes, *other_references(grid)]
    plan = Plan(grid, columns, precision, rows={row.name: {} for row in grid.rows}, notes=notes)
    plan.files |= {sha256: Origin(path, str(path)) for sha256, path in files.items()}
    trainings = {name: _training_specs(row, grid, precision, sources, origins) for name, row in grid.by_name.items()}
    evaluations = _evaluation_specs(grid, measured, sources)
    plan.places = places(grid, evaluations, sources)
    plan.available = available(grid, evaluations, sources)
    for row in grid.rows:
        trained = None if row.recipe.untrained else trainings[row.name]
        behind = _behind(row, grid, trainings)
        plan.keys[row.name] = fingerprint(
            [trained, architecture(row.recipe.encoder), list(evaluations.values()), *behind]
        )
    plan.files |= {trainings[name]["checkpoint"]["weights"]["sha256"]: origin for name, origin in origins.items()}
    evaluations = _chosen(evaluations, grid)
    for seed in grid.seeds:
        for row in grid.rows:
            if row.name in grid.chosen:
                plan.rows[row.name][seed] = _plan_row(plan, row, seed, trainings, evaluations)
    return plan


def _chosen(evaluations: dict[str, dict[str, Any]], grid: Grid) -> dict[str, dict[str, Any]]:
    """Those of --protocols, and those that they or a row build on."""
    for name in grid.only_protocols:
        check_known("--protocols", "protocol of the grid", name, grid.protocols)
    waiting = list(grid.only_protocols or evaluations)
    if any(row.recipe.finetuned for row in grid.rows):
        waiting.append("finetune")
    needed: set[str] = set()
    while waiting:
        name = waiting.pop()
        needed.add(name)
        settings = evaluations[name].get("protocol", {}).get("settings", {})
        waiting += [other for other in builds_on(name, settings) if other in evaluations]
    return {name: spec for name, spec in evaluations.items() if name in needed}


def _behind(row: Row, grid: Grid, trainings: Trainings) -> list[Any]:
    """By role, the trainings that a row builds on, and what these build on; empty for a row that builds on none."""
    roles = edges(row.recipe)
    return [
        [role, trainings[name], *_behind(grid.by_name[name], grid, trainings)] for role, name in sorted(roles.items())
    ]


def _protocols(grid: Grid, precision: str) -> dict[str, protocols.ProtocolSpec]:
    """Those of the grid, and those whose choice they take over."""
    place = f"{grid.config}: protocols"
    for name in grid.protocols:
        check_known(place, "protocol", name, PROTOCOLS)
    for name in grid.scale_settings:
        check_known(f"{grid.scale_file}: protocols", "protocol", name, PROTOCOLS)
    loaded: dict[str, protocols.ProtocolSpec] = {}
    waiting = list(grid.protocols)
    while waiting:
        name = waiting.pop()
        of_scale, of_sets = grid.scale_settings.get(name, {}), grid.settings.get(name)
        loaded[name] = protocols.load(name, of_scale, grid.scale_file, of_sets, precision)
        waiting += [other for other in builds_on(name, loaded[name].settings) if other in PROTOCOLS]
    for name in grid.settings:
        check_known("--set", "protocol of the grid", name, loaded)
    found: dict[str, protocols.ProtocolSpec] = {}
    for name in in_order(set(loaded)):
        behind = builds_on(name, loaded[name].settings)
        rests_on = {other: found[other].fingerprint for other in behind if other in found}
        found[name] = replace(loaded[name], rests_on=rests_on)
    return found


def _resolved(config: Any, precision: str) -> dict[str, Any]:
    spec = as_spec(config)
    return {**spec, "precision": precision} if spec["precision"] == "auto" else spec


def _training_specs(
    row: Row, grid: Grid, precision: str, sources: Sources, origins: dict[str, Origin]
) -> dict[str, dict[str, Any]]:
    """The specs of a row's training runs, without seed and parents."""
    recipe = row.recipe
    data = {**as_spec(recipe.data), **sources(recipe.data.name).facts(recipe.data)}
    full = {**objective_spec(recipe), "encoder": as_spec(recipe.encoder), "data": data,
            "schedule": _resolved(recipe.schedule, precision)}  # fmt: skip
    specs: dict[str, dict[str, Any]] = {"pretrain": {"kind": "pretrain", "recipe": full}}
    for name, term in recipe.terms.items():
        if registry.build("tokenizer", term.tokenizer).trained:
            training = _resolved(replace(recipe.tokenizer_training, teacher=None), precision)
            images = training.pop("images") or data["images"]
            role = "tokenizer" if recipe.flat else f"tokenizer.{name}"
            specs[role] = {"kind": "tokenizer", "tokenizer": term.tokenizer, "training": training,
                           "patch": recipe.encoder.patch, "data": {**data, "images": images}}  # fmt: skip
    if recipe.weights is not None:
        weights = {"sha256": sha256_file(origins[row.name].path)}
        specs = {"checkpoint": {"kind": "checkpoint", "weights": weights, "encoder": architecture(recipe.encoder),
                                "size": recipe.data.size}}  # fmt: skip
    if recipe.finetuned is not None:
        specs = {"finetuned": {"kind": "finetuned", "encoder": architecture(recipe.encoder),
                               "size": grid.evaluation.data.size}}  # fmt: skip
    return {
        role: {**spec, "version": KINDS[spec["kind"]].version, "threads": grid.threads} for role, spec in specs.items()
    }


def objective_spec(recipe: Recipe) -> dict[str, Any]:
    """Masker and terms; of a flat recipe its parts, as before there were terms."""
    if recipe.flat:
        term = recipe.terms[ONLY]
        spec = {"tokenizer": term.tokenizer, "masker": recipe.masker, "loss": term.loss, "decoder": term.decoder}
    else:
        spec = {"masker": recipe.masker, "terms": {name: as_spec(term) for name, term in recipe.terms.items()}}
    if recipe.views:
        spec["views"] = {name: as_spec(view) for name, view in recipe.views.items()}
    if recipe.teacher is not None:
        moving = {key: value for key, value in as_spec(recipe.teacher).items() if key != "row"}
        frozen = recipe.teacher.row is not None  # which one is an edge
        spec["teacher"] = {"keep": "student", "frozen": True} if frozen else {**moving, "frozen": False}
    return spec


def _evaluation_specs(
    grid: Grid, measured: dict[str, protocols.ProtocolSpec], sources: Sources
) -> dict[str, dict[str, Any]]:
    """The specs of a row's evaluations by kind, without encoder, seed and parents."""
    evaluation = grid.evaluation
    images = sources(evaluation.data.name)
    data = {**as_spec(evaluation.data), **images.facts(evaluation.data)}
    place, of_labels = f"scale {grid.scale}: evaluation", as_spec(evaluation.counts())
    if not all(KINDS[name].reads_masks for name in measured):
        images.check_labels(f"{place}.data.name")
    images.check_counts(of_labels, place)
    specs = {}
    behind = {kind for name, spec in measured.items() for kind in builds_on(name, spec.settings)} - {"encoder"}
    for name in in_order({*measured, *behind}):
        kind = KINDS[name]
        spec = {"kind": name, "data": data, "counts": of_labels, "threads": grid.threads}
        if name in measured:
            column = measured[name]
            protocol = {k: getattr(column, k) for k in ("name", "version", "fingerprint")} | {"settings": column.named}
            rests_on = {"rests_on": column.rests_on} if column.rests_on else {}
            spec |= {"version": column.version, "protocol": {**protocol, **rests_on}, "metric": column.metric}
        else:
            spec |= {"version": kind.version}
        if kind.reads_masks:
            masks = evaluation.segmentation_data or evaluation.data.name
            counts = as_spec(evaluation.segmentation_counts())
            spec |= {"segmentation_data": masks, **sources(masks).segmentation_facts(), "counts": counts}
            own = "" if evaluation.segmentation else " (not set: as many as without masks)"
            sources(masks).check_counts(counts, f"{place}.segmentation{own}", masks=True)
        specs[name] = spec
    return specs


def _train(
    plan: Plan, row: Row, seed: int, trainings: Trainings, evaluations: dict[str, dict[str, Any]]
) -> dict[str, str]:
    """The runs behind a row's encoder at one seed, by role: its own, after those of the rows it builds on."""
    recipe, specs, seeds = row.recipe, trainings[row.name], plan.grid.nested.seeds(seed)
    if recipe.weights is not None:
        return {"checkpoint": plan.add({**specs["checkpoint"], "seed": 0, "parents": {}})}  # the same for all seeds
    rows = plan.grid.by_name
    if recipe.finetuned is not None:
        parents = {"finetune": _plan_row(plan, rows[recipe.finetuned], seed, trainings, evaluations)["finetune"]}
        return {"finetuned": plan.add({**specs["finetuned"], "seed": seed, "parents": parents})}
    if not recipe.pretrain:
        return {}
    others = edges(recipe)
    teacher = {}
    if (name := others.pop(OF_TOKENIZER, None)) is not None:
        first = plan.grid.nested.first(seed)
        teacher = {"parents": {"teacher": encoder_of(_train(plan, rows[name], first, trainings, evaluations))}}
    runs = {
        role: plan.add({**spec, "seed": seeds["tokenizer"], **(teacher if needs_teacher(spec["tokenizer"]) else {})})
        for role, spec in specs.items()
        if role != "pretrain"
    }
    parents = dict(runs)
    for role, name in others.items():
        parents[role] = encoder_of(_train(plan, rows[name], seed, trainings, evaluations))
    return {**runs, "pretrain": plan.add({**specs["pretrain"], "seed": seeds["pretrain"], "parents": parents})}


def encoder_of(runs: dict[str, str]) -> str:
    """The run that leaves the encoder."""
    return next(runs[role] for role in ("checkpoint", "finetuned", "pretrain") if role in runs)


def _plan_row(
    plan: Plan, row: Row, seed: int, trainings: Trainings, evaluations: dict[str, dict[str, Any]]
) -> dict[str, str]:
    """One row at one seed: its training, then its evaluations. Returns their names by role or kind."""
    trained = _train(plan, row, seed, trainings, evaluations)
    runs = {role.partition(".")[0]: run for role, run in reversed(trained.items())}  # one tokenizer per row is shown
    runs = dict(reversed(runs.items()))
    encoder = {"encoder": encoder_of(runs)} if runs else {}
    config = architecture(row.recipe.encoder)
    for kind, spec in evaluations.items():
        roles = builds_on(kind, spec.get("protocol", {}).get("settings", {}))
        parents = {role: {**runs, **encoder}[role] for role in roles if role != "encoder" or encoder}
        runs[kind] = plan.add({**spec, "encoder": config, "seed": seed, "parents": parents})
    return runs


def wanted(runs: dict[str, Planned], store: Store) -> dict[str, Planned]:
    """The runs to compute, in order: those not done, and done parents whose weights are lost but still needed."""
    needed = {name for name in runs if not store.run(name).done()}
    for name, run in reversed(runs.items()):
        if name in needed:
            needed |= {parent for parent in run.parents if not store.run(parent).has_weights()}
    return {name: run for name, run in runs.items() if name in needed}


def from_folders(names: Iterable[str], store: Store) -> dict[str, Planned]:
    """Runs as their folders describe them, with all their ancestors: parents first. Needs no grid file."""
    found: dict[str, Planned] = {}

    def add(name: str) -> None:
        if name not in found:
            run = Planned(name, store.run(name).spec())
            for parent in run.parents:
                add(parent)
            found[name] = run

    for name in names:
        add(name)
    return found
