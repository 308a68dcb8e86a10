"""The tensors in a checkpoint's file. Nothing in it is executed."""

from __future__ import annotations

import argparse
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from mimbench.errors import UserError
from mimbench.models.layouts import unwrapped

# What training scripts save beside the tensors, read as plain values: the arguments, and SimMIM's config
PLAIN: list[Any] = [argparse.Namespace, (OrderedDict, "yacs.config.CfgNode")]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Of a safetensors file, or of one by torch.save."""
    with path.open("rb") as file:
        start = file.read(9)
    try:
        if start[8:9] == b"{" and start[:4] != b"PK\x03\x04":  # torch's files are zip archives
            return load_file(path)
        with torch.serialization.safe_globals(PLAIN):
            state = unwrapped(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # both have many for a file that is none of theirs
        raise UserError(f"{path}: {_reason(str(error))}") from error
    if not isinstance(state, dict):
        raise UserError(f"{path}: must hold tensors by name, not one {type(state).__name__}.")
    return {key: value for key, value in state.items() if isinstance(value, Tensor)}


def _reason(message: str) -> str:
    """torch's own advice is to execute what is in the file."""
    if found := re.search(r"Unsupported global: GLOBAL (\S+)", message):
        name = found.group(1) if "." in found.group(1) else f"builtins.{found.group(1)}"
        return f"holds {name}, which is not tensors; not loaded. Save its state dict alone."
    return "truncated or not a checkpoint: not readable as safetensors, nor as tensors by torch.save."
