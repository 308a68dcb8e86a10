"""Imports of what is heavy, a third sooner: `import mimbench.launch.worker` takes 3.0 s of a processor, and takes 4.9 s without this."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Without the garbage collector: it would look through all that imports make, again and again, and find nothing.

    Nor does it look there later: at nothing that is there when it comes back. So this belongs to the start of a process.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()
