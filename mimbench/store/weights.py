"""Tensors on disk: written whole or not at all, read without executing anything."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from mimbench.errors import UserError
from mimbench.store.files import write_atomically


def save_weights(state: Any, path: Path) -> None:
    """torch.save into a folder that exists: one that vanished (unmounted, moved away) is not created again."""
    path.parent.stat()
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(path, buffer.getvalue())


def load_weights(path: Path, device: torch.device | str = "cpu", *, lazily: bool = False) -> dict[str, Any]:
    """What `save_weights` wrote; `lazily` reads no tensor before it is used."""
    try:
        return torch.load(path, map_location=device, weights_only=True, mmap=lazily)
    except Exception as error:  # torch has many for a file that is none of its own
        raise UserError(f"{path}: not readable as weights ({error}). Move it away to recompute it.") from error
