"""The whole model of a pre-training: made for a run, and made again from what the run left."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mimbench.errors import UserError
from mimbench.pretrain.step import Pretraining, make_pretraining
from mimbench.run.weights import encoder_config, keep_weights, parent_weights, with_imported_files
from mimbench.store.results import RunFolder, Store
from mimbench.store.weights import load_weights, save_weights

REST = "objective.pt"  # beside the encoder: decoders, and the teacher where it follows. No later run reads it


def make_objective(store: Store, spec: dict[str, Any], device: torch.device) -> tuple[Pretraining, dict[str, Any]]:
    """As it is before the first step; and what to record of its parents."""
    weights = {role: parent_weights(store, name) for role, name in spec["parents"].items()}
    state = {role: load_weights(path) for role, (path, _) in weights.items()}
    other = encoder_config(store, spec["parents"]["teacher"]) if "teacher" in state else None
    recipe = with_imported_files(store, spec["recipe"])
    objective = make_pretraining(recipe, state, spec["seed"], device, other)
    return objective, {role: noted for role, (_, noted) in weights.items()}


def keep_objective(folder: RunFolder, objective: Pretraining) -> str:
    """Save the encoder, and apart from it the rest. Returns the encoder's sha256."""
    kept = keep_weights(folder, objective.kept().state_dict())
    rest = {key: value.cpu() for key, value in _rest(objective).items()}
    save_weights({"encoder_sha256": kept, "state": rest}, folder.work / REST)
    return kept


def finished_objective(store: Store, folder: RunFolder) -> Pretraining:
    """As it was after the last step, in eval mode."""
    path, recorded = parent_weights(store, folder.name)
    rest = folder.work / REST
    saved = load_weights(rest) if rest.exists() else {}
    if saved.get("encoder_sha256") != recorded["weights_sha256"]:
        raise UserError(
            f"{rest}: missing, or of other weights than {path.name}: earlier versions kept no decoders. Move {folder.path} "
            "away and run the grid again."
        )
    objective, _ = make_objective(store, folder.spec(), torch.device("cpu"))
    own = objective.state_dict()
    encoder = {f"{_kept_prefix(objective)}{key}": value for key, value in load_weights(path).items()}
    unchanged = {key: value for key, value in own.items() if _is_the_parents(objective, key)}
    objective.load_state_dict({**unchanged, **saved["state"], **encoder})
    return objective.eval()


def _rest(objective: Pretraining) -> dict[str, Tensor]:
    kept = _kept_prefix(objective)
    state: dict[str, Tensor] = objective.state_dict()
    return {k: v for k, v in state.items() if not k.startswith(kept) and not _is_the_parents(objective, k)}


def _kept_prefix(objective: Pretraining) -> str:
    return "encoder." if objective.kept() is objective.encoder else "teacher.encoder."


def _is_the_parents(objective: Pretraining, key: str) -> bool:
    """A tensor of another row's encoder, which is frozen, and lies with its own run."""
    return objective.teacher is not None and objective.teacher.frozen and key.startswith("teacher.")
