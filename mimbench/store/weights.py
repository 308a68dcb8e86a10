"""Tensors on disk: written whole or not at all, read without executing anything."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mimbench.errors import UserError
from mimbench.store.files import write_atomically


def save_weights(state: Any, path: Path) -> None:
    """torch.save into a folder that exists: one that vanished (unmounted, moved away) is not created again."""
    path.parent.stat()
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(path, buffer.getvalue())


def _check_sums(path: Path) -> None:
    """torch.save writes a zip archive with a checksum of every tensor, and torch.load looks at none."""
    with zipfile.ZipFile(path) as archive:
        if (damaged := archive.testzip()) is not None:
            raise ValueError(f"{damaged} does not have its checksum: bits have changed")


def load_weights(path: Path, device: torch.device | str = "cpu", *, lazily: bool = False) -> dict[str, Any]:
    """What `save_weights` wrote; `lazily` reads no tensor before it is used, and checks none."""
    try:
        if not lazily:
            _check_sums(path)
        return torch.load(path, map_location=device, weights_only=True, mmap=lazily)
    except Exception as error:  # torch has many for a file that is none of its own
        raise UserError(f"{path}: not readable as weights ({error}). Move it away to recompute it.") from error


def load_into(module: nn.Module, state: dict[str, Any], path: Path) -> None:
    """Restore what this module saved to `path`; another one's, or an earlier version's, is told from it."""
    try:
        module.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        raise not_of_this_version(path) from error


def not_of_this_version(path: Path) -> UserError:
    return UserError(f"{path}: not what this version saves for this run: other names or shapes of tensors. Move it away to "
                     "train again, or go on with the version that wrote it.")  # fmt: skip
