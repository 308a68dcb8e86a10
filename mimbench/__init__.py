"""mimbench: a bench for masked image modeling.

In Python: `load_results(path)`, `load_encoder(run)` and `plan(grid)`; see docs/results.ipynb.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mimbench.api import load_encoder as load_encoder
    from mimbench.api import load_results as load_results

__version__ = "0.2.0.dev0"
__all__ = ["load_encoder", "load_results", "plan"]


def __getattr__(name: str) -> Any:
    """Imported when first used: the command line and the jobs need none of it."""
    if name == "plan":  # the package, which can be called
        return importlib.import_module("mimbench.plan")
    if name in __all__:
        return getattr(importlib.import_module("mimbench.api"), name)
    raise AttributeError(f"module 'mimbench' has no attribute '{name}'")
