"""The kind of run that extracts frozen features, once for all protocols that read them."""

from __future__ import annotations

from typing import Any

from mimbench.evals.features import extract_splits
from mimbench.run.evaluation import data_flags, put_under_test
from mimbench.run.weights import keep_weights
from mimbench.runtime import Runtime
from mimbench.store.results import RunFolder, Store


def extract(store: Store, folder: RunFolder, spec: dict[str, Any], runtime: Runtime) -> tuple[dict[str, Any], int]:
    under_test, parents = put_under_test(store, folder, spec)
    features = extract_splits(under_test, runtime)
    folder.work.mkdir(exist_ok=True)
    return {
        "metrics": {}, "values": {}, "flags": data_flags(under_test, spec), "parents": parents,
        "weights_sha256": keep_weights(folder, features),
    }, sum(split.shape[1] for split in features.values())  # fmt: skip
