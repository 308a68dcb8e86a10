"""The kind of run without training: the encoder of another row's fine-tuning, to be evaluated further."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from mimbench.config.schema import EncoderConfig, from_spec
from mimbench.errors import RunFailed
from mimbench.models.encoder import make_encoder
from mimbench.run.weights import keep_weights, recorded_sha256
from mimbench.runtime import Runtime
from mimbench.store.files import sha256_file
from mimbench.store.results import RunFolder, Store
from mimbench.store.weights import load_weights


def take_encoder(store: Store, folder: RunFolder, spec: dict[str, Any], runtime: Runtime) -> tuple[dict[str, Any], int]:
    path, parent = finetuned_weights(store, spec["parents"]["finetune"])
    encoder = make_encoder(from_spec(EncoderConfig, spec["encoder"]), spec["size"], spec["seed"], masked=False)
    encoder.load_state_dict(encoder_weights(load_weights(path), encoder.state_dict()))
    folder.work.mkdir(exist_ok=True)
    return {
        "metrics": {}, "values": {}, "flags": [], "parents": {"finetune": parent},
        "weights_sha256": keep_weights(folder, encoder.state_dict()),
    }, 0  # fmt: skip


def finetuned_weights(store: Store, name: str) -> tuple[Path, dict[str, Any]]:
    """The classifier at the learning rate that a run chose, checked against its result; and what to record of it."""
    parent = store.run(name)
    if not parent.done():
        raise RunFailed(f"the parent {name} has no result yet; run the grid again, it will be run first")
    recorded = recorded_sha256(parent)  # not in results of versions before this kind of run
    path = parent.work / f"lr-{parent.result()['values']['chosen']['lr']:g}" / "final.pt"
    if not path.exists() or sha256_file(path) != recorded:
        raise RunFailed(
            f"{path}: missing, or not the weights of result.json. Move {parent.path} away to recompute them"
        )
    return path, {"run": name, "weights_sha256": recorded}


def encoder_weights(classifier: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """From a classifier's weights, of the moving average if it has one. Its last norm is the one that the head was given."""
    average = "ema.module."
    if any(key.startswith(average) for key in classifier):
        classifier = {key.removeprefix(average): value for key, value in classifier.items() if key.startswith(average)}
    found = {key.removeprefix("encoder."): value for key, value in classifier.items() if key.startswith("encoder.")}
    for kind in ("weight", "bias"):
        norm = classifier[f"fc_norm.{kind}"]  # of twice the width where patches and class token were read side by side
        found[f"body.norm.{kind}"] = norm if norm.shape == own[f"body.norm.{kind}"].shape else own[f"body.norm.{kind}"]
    return found
