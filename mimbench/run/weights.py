"""Weights that pass from run to run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mimbench.config.schema import EncoderConfig, from_spec
from mimbench.errors import RunFailed, UserError
from mimbench.parts import FILE
from mimbench.store.files import sha256_file
from mimbench.store.results import WEIGHTS, RunFolder, Store
from mimbench.store.weights import save_weights


def parent_weights(store: Store, name: str) -> tuple[Path, dict[str, Any]]:
    """A parent's weights, checked against the sha256 in its result; and what to record of them."""
    parent = store.run(name)
    path = parent.work / WEIGHTS
    if not parent.done() or not path.exists():
        raise RunFailed(f"the parent {name} has no weights yet; run the grid again, it will be run first")
    recorded = recorded_sha256(parent)
    if sha256_file(path) != recorded:
        raise UserError(f"{path}: sha256 mismatch with result.json. Move {parent.path} away to recompute it.")
    return path, {"run": name, "weights_sha256": recorded}


def recorded_sha256(parent: RunFolder) -> str:
    """Of the weights that a finished run left."""
    recorded = parent.result().get("weights_sha256")
    if not isinstance(recorded, str):
        raise _lacks(parent, "weights_sha256")
    return recorded


def _lacks(parent: RunFolder, what: str) -> UserError:
    return UserError(
        f"{parent.path / 'result.json'}: has no {what}, as results of this version have. Move {parent.path} away to "
        "recompute it."
    )


def parent_pooling(store: Store, name: str) -> str:
    """The pooling that a parent, an evaluation, chose."""
    parent = store.run(name)
    if not parent.done():
        raise RunFailed(f"the parent {name} has no result yet; run the grid again, it will be run first")
    chosen = parent.result().get("values", {}).get("chosen", {})
    if "pooling" not in chosen:
        raise _lacks(parent, "chosen pooling")
    return str(chosen["pooling"])


def encoder_config(store: Store, name: str) -> EncoderConfig:
    """Of the encoder that a run leaves."""
    spec = store.run(name).spec()
    return from_spec(EncoderConfig, spec["recipe"]["encoder"] if "recipe" in spec else spec["encoder"])


def imported(store: Store, sha256: str) -> Path:
    """The copy of a file that is not ours, checked."""
    path = store.imported(sha256)
    if not path.exists() or sha256_file(path) != sha256:
        raise UserError(
            f"{path}: missing or damaged. Run the grid again: it copies the file from where the row says it is."
        )
    return path


def with_imported_files(store: Store, spec: Any) -> Any:
    """A recipe's spec with the path of the copy in place of each `sha256:...`."""
    if isinstance(spec, dict):
        return {key: with_imported_files(store, value) for key, value in spec.items()}
    if isinstance(spec, str) and spec.startswith(FILE):
        return str(imported(store, spec.removeprefix(FILE)))
    return spec


def keep_weights(folder: RunFolder, state: dict[str, Any]) -> str:
    """Save them; returns their sha256."""
    path = folder.work / WEIGHTS
    save_weights({k: v.cpu() for k, v in state.items()}, path)
    return sha256_file(path)
