"""The process of one run on this machine. Imported once by the fork server, which thereby warms every process up."""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
import traceback
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mimbench import env, registry
from mimbench.errors import Interrupted
from mimbench.launch import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, EXIT_TAKEN
from mimbench.pretrain.fit import Stop
from mimbench.run import default_place, execute
from mimbench.store import Store

# mmsegmentation takes seconds to import, and speaks of optional packages while it does
with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
    warnings.simplefilter("ignore")
    import mimbench.evals.segmentation  # noqa: F401
from mimbench.evals import finetune as finetune  # all of the code now: an edit while a grid runs must not mix in
from mimbench.evals import knn as knn
from mimbench.evals import linear_probe as linear_probe

env.facts()  # the commit of this code, not of what is checked out when a run starts
registry.load_plugins()

PROGRESS_SECONDS = 1.0


def main(root: str, name: str, slot: int, options: dict[str, Any]) -> int:
    """Exit code of the run; everything it prints goes into its own log."""
    stop = Stop()
    stop.listen()
    store = Store(root)
    work = store.run(name).work
    work.mkdir(parents=True, exist_ok=True)
    with (work / "log.txt").open("a", buffering=1) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        place = replace(default_place(), stop=stop, progress=Progress(work), **options)
        if place.device.type == "cuda":
            place = replace(place, device=torch.device("cuda", slot))
        try:
            return EXIT_DONE if execute(store, name, place) == "done" else EXIT_TAKEN
        except Interrupted:
            return EXIT_STOPPED
        except BaseException:
            traceback.print_exc()
            return EXIT_FAILED


class Progress:
    """work/progress.json: step, steps and rate, for the display and `status`. At most once a second."""

    def __init__(self, work: Path) -> None:
        self.path = work / "progress.json"
        self.last, self.last_step = time.monotonic(), 0

    def __call__(self, step: int, steps: int) -> None:
        now = time.monotonic()
        if now - self.last < PROGRESS_SECONDS:
            return
        rate = max(0, step - self.last_step) / (now - self.last)
        self.last, self.last_step = now, step
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps({"step": step, "steps": steps, "steps_per_second": round(rate, 2)}))
        temporary.replace(self.path)
