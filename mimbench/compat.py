"""Makes `import torchvision` work beside a CPU-only torch. Import before timm, torchvision or mmseg.

The registry's torchvision wheel is compiled for CUDA; beside a CPU build of torch its library does not load, and the
import fails because two operators are registered without asking. Only its transforms are needed here, so the two
schemas are declared where they are missing. With a matching pair this does nothing.
"""

from __future__ import annotations

import contextlib
import importlib.util
from pathlib import Path

import torch

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def declare_missing_operators() -> bool:
    """Whether torchvision's operators were missing and had to be declared."""
    if _library_loads():
        return False
    for name in ("nms", "qnms"):
        with contextlib.suppress(RuntimeError):  # declared already
            torch.library.define(f"torchvision::{name}", _SCHEMA)
    return True


def _library_loads() -> bool:
    """Whether torchvision's own compiled operators can be loaded into this torch."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False
    libraries = [p for p in Path(spec.origin).parent.glob("_C.*") if p.suffix in (".so", ".pyd", ".dylib")]
    try:
        for library in libraries:
            torch.ops.load_library(str(library))
    except OSError:
        return False
    return bool(libraries)


operators_were_missing = declare_missing_operators()
