"""From a grid to the runs that it needs. Called as a function, `mimbench.plan("ablations")`, it gives them as a DataFrame."""

from __future__ import annotations

import importlib
import sys
import types
from typing import Any


class _Callable(types.ModuleType):
    """A name of Python's interface that is a package's, too: importing the package must not take the function away."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return importlib.import_module("mimbench.api").plan(*arguments, **options)


sys.modules[__name__].__class__ = _Callable
