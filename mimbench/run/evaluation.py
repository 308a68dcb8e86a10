"""The kinds of run that evaluate an encoder by a protocol."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mimbench.config.schema import EncoderConfig, from_spec
from mimbench.data.sources import opened
from mimbench.evals.common import EncoderUnderTest
from mimbench.kinds import KINDS
from mimbench.protocols import completed
from mimbench.run.data import data_of, masks_of
from mimbench.run.weights import parent_pooling, parent_weights
from mimbench.runtime import Runtime
from mimbench.store.files import fingerprint
from mimbench.store.results import RunFolder, Store

Evaluate = Callable[[EncoderUnderTest, dict[str, Any], Runtime], dict[str, Any]]


def put_under_test(store: Store, folder: RunFolder, spec: dict[str, Any]) -> tuple[EncoderUnderTest, dict[str, Any]]:
    """What an evaluation gets, and what to record of its parents."""
    weights, parents, pooling = {}, {}, ""
    for role, name in spec["parents"].items():
        if KINDS[store.run(name).kind].leaves_weights:
            weights[role], parents[role] = parent_weights(store, name)
        else:
            pooling = parent_pooling(store, name)
            parents[role] = {"run": name, "pooling": pooling}
    under_test = EncoderUnderTest(
        config=from_spec(EncoderConfig, spec["encoder"]), weights=weights.get("encoder"), features=weights.get("features"),
        pooling=pooling, seed=spec["seed"], data=data_of(spec), segmentation_data=masks_of(spec), counts=spec["counts"],
        cache=store.cache, work=folder.work,
    )  # fmt: skip
    return under_test, parents


def left_out(under_test: EncoderUnderTest, spec: dict[str, Any]) -> list[str]:
    """The images that could not be read: with others left out, a run of the same name measures something else."""
    if KINDS[spec["kind"]].reads_masks:
        lost = opened(under_test.segmentation_data).segmentation_left_out(under_test.cache)
        return sorted(f"{path.parent.name}/{path.name}" for path in lost)
    return opened(under_test.data.name).left_out(("labeled", "val", "test"), under_test.cache)


def data_flags(under_test: EncoderUnderTest, spec: dict[str, Any]) -> list[str]:
    """Images that it could not read."""
    if KINDS[spec["kind"]].reads_masks:
        return opened(under_test.segmentation_data).segmentation_flags(under_test.cache)
    return opened(under_test.data.name).flags(("labeled", "val", "test"), under_test.cache)


def evaluate(
    protocol: Evaluate, store: Store, folder: RunFolder, spec: dict[str, Any], runtime: Runtime
) -> tuple[dict[str, Any], int]:
    under_test, parents = put_under_test(store, folder, spec)
    settings = completed(spec["protocol"]["name"], spec["protocol"]["settings"])
    measured = protocol(under_test, settings, runtime)
    images = measured.pop("images", 0)
    facts = {"data": spec["data"], "counts": spec["counts"], "segmentation": spec.get("segmentation_data")}
    if "segmentation_manifest" in spec:  # of an image folder; built-in data follow from `data`
        facts["segmentation_manifest"] = spec["segmentation_manifest"]
    if lost := left_out(under_test, spec):
        facts["left_out"] = lost
    data = {"name": Path(under_test.segmentation_data or under_test.data.name).name, "fingerprint": fingerprint(facts)}
    measured["flags"] = [*measured["flags"], *data_flags(under_test, spec)]
    return {
        "metric": spec["metric"], "protocol": spec["protocol"], "data": data, "parents": parents, **measured,
    }, images  # fmt: skip
