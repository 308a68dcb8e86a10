"""`mimbench export RUN`: the encoder that a run left, as other libraries load it, with a model card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save

from mimbench.errors import UserError
from mimbench.launch.state import find_run
from mimbench.models.export import FORMS
from mimbench.report.card import TRAINED, card
from mimbench.run.weights import encoder_config, parent_weights
from mimbench.store.files import write_atomically
from mimbench.store.results import Store
from mimbench.store.weights import load_weights


def export(store: Store, run: str, form: str, out: str | None) -> Path:
    """Returns the folder, complete or not there."""
    folder = find_run(store, run)
    if folder.kind not in TRAINED:
        instead = " For its encoder add a row `pretrain: {finetuned: ROW}`." if folder.kind == "finetune" else ""
        raise UserError(f"{folder.name}: only runs of kind {', '.join(TRAINED)} can be exported.{instead}")
    target = Path(out or f"{folder.name}.{form}")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target}: exists already and is not empty; give another one with --out.")
    path, _ = parent_weights(store, folder.name)
    spec: dict[str, Any] = folder.spec()
    size = spec["recipe"]["data"]["size"] if "recipe" in spec else spec["size"]
    state = {name.removeprefix("body."): tensor.contiguous() for name, tensor in load_weights(path).items()}
    made = FORMS[form](encoder_config(store, folder.name), size, state)
    text = card(store, folder, made.usage)
    write_atomically(target / "model.safetensors", save(made.tensors, {"format": "pt"}))
    for name, content in made.files.items():
        write_atomically(target / name, json.dumps(content, indent=2) + "\n")
    write_atomically(target / "README.md", text)
    return target
