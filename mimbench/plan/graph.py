"""A grid -> the graph of the runs it needs. Rows share runs."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from mimbench import env, protocols, registry
from mimbench.config.schema import PART_KINDS, EncoderConfig, Grid, Row, as_spec
from mimbench.data.sources import Sources, source
from mimbench.errors import check_known
from mimbench.kinds import KINDS
from mimbench.plan.pairing import check_protocols, check_row
from mimbench.store.files import fingerprint
from mimbench.store.results import Store, run_name


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
        """The runs whose weights it needs."""
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
    uses: dict[str, int] = field(default_factory=dict)

    def add(self, spec: dict[str, Any]) -> str:
        name = run_name(spec)
        self.runs.setdefault(name, Planned(name, spec))
        self.uses[name] = self.uses.get(name, 0) + 1
        return name

    def of_seed(self, seed: int) -> set[str]:
        return {name for row in self.rows.values() for name in row.get(seed, {}).values()}


def make_plan(grid: Grid, *, on_gpus: bool = False) -> Plan:
    """All runs of all rows and seeds. Raises before any compute where parts do not fit together.

    `on_gpus`: the runs will be on GPUs, even if this machine has none: `precision: auto` is bf16.
    """
    precision = "bf16" if on_gpus or env.bf16_pays() else "fp32"
    sources, columns = functools.cache(source), _columns(grid, precision)
    check_protocols(columns, grid, sources)
    for row in grid.rows:
        check_row(row, columns, grid, sources)
    plan = Plan(grid, columns, precision, rows={row.name: {} for row in grid.rows})
    trainings = {row.name: _training_specs(row, grid, precision, sources) for row in grid.rows}
    evaluations = _evaluation_specs(grid, columns, sources)
    for row in grid.rows:
        trained = trainings[row.name] if row.recipe.pretrain else None
        plan.keys[row.name] = fingerprint([trained, _evaluated(row.recipe.encoder), evaluations])
    for seed in grid.seeds:
        for row in grid.rows:
            if row.name in grid.chosen:
                plan.rows[row.name][seed] = _plan_row(plan, row, seed, trainings[row.name], evaluations)
    return plan


def _columns(grid: Grid, precision: str) -> list[protocols.ProtocolSpec]:
    for name in grid.settings:
        check_known("--set", "protocol of the grid", name, grid.protocols)
    place = f"{grid.config}: protocols"
    return [
        protocols.load(name, grid.protocol_scale, place, grid.settings.get(name), precision) for name in grid.protocols
    ]


def _resolved(config: Any, precision: str) -> dict[str, Any]:
    spec = as_spec(config)
    return {**spec, "precision": precision} if spec["precision"] == "auto" else spec


def _training_specs(row: Row, grid: Grid, precision: str, sources: Sources) -> dict[str, dict[str, Any]]:
    """The specs of a row's training runs, without seed and parents."""
    recipe = row.recipe
    data = {**as_spec(recipe.data), **sources(recipe.data.name).facts(recipe.data)}
    full = {**{kind: getattr(recipe, kind) for kind in PART_KINDS}, "encoder": as_spec(recipe.encoder), "data": data,
            "schedule": _resolved(recipe.schedule, precision)}  # fmt: skip
    specs: dict[str, dict[str, Any]] = {"pretrain": {"kind": "pretrain", "recipe": full}}
    if registry.build("tokenizer", recipe.tokenizer).trained:
        training = _resolved(recipe.tokenizer_training, precision)
        images = training.pop("images") or data["images"]
        specs["tokenizer"] = {"kind": "tokenizer", "tokenizer": recipe.tokenizer, "training": training,
                              "patch": recipe.encoder.patch, "data": {**data, "images": images}}  # fmt: skip
    return {kind: {**spec, "version": KINDS[kind].version, "threads": grid.threads} for kind, spec in specs.items()}


def _evaluation_specs(grid: Grid, columns: list[protocols.ProtocolSpec], sources: Sources) -> list[dict[str, Any]]:
    evaluation = grid.evaluation
    images = sources(evaluation.data.name)
    data = {**as_spec(evaluation.data), **images.facts(evaluation.data)}
    counts = {"labeled": evaluation.labeled, "val": evaluation.val, "test": evaluation.test}
    images.check_counts(counts, f"scale {grid.scale}: evaluation")
    specs = []
    for column in columns:
        protocol = {k: getattr(column, k) for k in ("name", "version", "fingerprint", "settings")}
        extra: dict[str, Any] = {}
        if KINDS[column.name].reads_masks:
            name = evaluation.segmentation_data or evaluation.data.name
            extra = {"segmentation_data": name, **sources(name).segmentation_facts()}
        specs.append({"kind": column.name, "version": column.version, "protocol": protocol, "metric": column.metric,
                      "data": data, "counts": counts, "threads": grid.threads, **extra})  # fmt: skip
    return specs


def _plan_row(
    plan: Plan, row: Row, seed: int, trainings: dict[str, dict[str, Any]], evaluations: list[dict[str, Any]]
) -> dict[str, str]:
    """One row at one seed: tokenizer, pre-training, evaluations. Returns their names by kind."""
    runs: dict[str, str] = {}
    tokenizer: dict[str, str] = {}
    parents: dict[str, str] = {}
    if row.recipe.pretrain:
        if "tokenizer" in trainings:
            runs["tokenizer"] = tokenizer["tokenizer"] = plan.add({**trainings["tokenizer"], "seed": seed})
        spec = {**trainings["pretrain"], "seed": seed, "parents": tokenizer}
        runs["pretrain"] = parents["encoder"] = plan.add(spec)
    encoder = _evaluated(row.recipe.encoder)
    for spec in evaluations:
        runs[spec["kind"]] = plan.add({**spec, "encoder": encoder, "seed": seed, "parents": parents})
    return runs


def _evaluated(encoder: EncoderConfig) -> dict[str, Any]:
    """An encoder without what matters in pre-training alone."""
    return {k: v for k, v in as_spec(encoder).items() if k not in ("masking", "drop_path")}


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
