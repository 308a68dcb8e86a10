"""The process of one run on this machine. The fork server imports this module once for all processes."""

from __future__ import annotations

import contextlib
import importlib
import io
import multiprocessing
import os
import threading
import time
import traceback
import warnings
from dataclasses import replace
from typing import Any

from mimbench.errors import Interrupted
from mimbench.runtime import Progress, Stop, log_to, quick_imports
from mimbench.store.results import Store

# mmsegmentation takes seconds to import and prints about optional packages
with quick_imports(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
    warnings.simplefilter("ignore")
    import torch

    # all code now, so that an edit of it while a grid runs has no effect
    from mimbench import env, registry
    from mimbench.errors import EXIT_FAILED, EXIT_HELD, EXIT_INTERRUPTED, EXIT_OK
    from mimbench.kinds import KINDS
    from mimbench.run.execute import execute
    from mimbench.runtime import local_runtime

    for kind in KINDS.values():
        importlib.import_module(kind.run.partition(":")[0])

env.facts()  # cached now: the commit of the imported code, not of what is checked out when a run starts
registry.load_plugins()


LAST_SECONDS = 20.0  # that a run has to reach the end of its step when its launcher is gone


def main(root: str, name: str, slot: int, settings: dict[str, Any]) -> int:
    """Execute the run and return the exit code. All output goes to the run's log."""
    stop = Stop()
    stop.listen()
    threading.Thread(target=_end_without_launcher, args=(stop,), daemon=True).start()
    store = Store(root)
    work = store.run(name).work
    try:
        log_to(work / "log.txt")
        progress = Progress(work)
    except OSError:  # the launcher will not be able to write there either, and says so
        return EXIT_FAILED
    runtime = local_runtime(stop=stop, progress=progress, **settings)
    if runtime.device.type == "cuda":
        runtime = replace(runtime, device=torch.device("cuda", slot))
    try:
        return EXIT_OK if execute(store, name, runtime) == "done" else EXIT_HELD
    except Interrupted:
        return EXIT_INTERRUPTED
    except BaseException:
        traceback.print_exc()
        return EXIT_FAILED


def _end_without_launcher(stop: Stop) -> None:
    """Nobody would see this process end, or tell it to: it saves and stops."""
    launcher = multiprocessing.parent_process()
    if launcher is None:
        return
    launcher.join()
    stop.request()
    time.sleep(LAST_SECONDS)
    os._exit(EXIT_INTERRUPTED)
