"""The process of one run on this machine. Imported once by the fork server, which thereby warms every process up."""

from __future__ import annotations

import contextlib
import io
import traceback
import warnings
from dataclasses import replace
from typing import Any

from mimbench.errors import Interrupted
from mimbench.importing import importing
from mimbench.progress import Progress, log_to
from mimbench.runtime import Stop
from mimbench.store.results import Store

# mmsegmentation takes seconds to import, and speaks of optional packages while it does
with importing(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
    warnings.simplefilter("ignore")
    import torch

    # all of the code now: an edit while a grid runs must not mix in
    from mimbench import env, registry
    from mimbench.evals import finetune as finetune
    from mimbench.evals import knn as knn
    from mimbench.evals import linear_probe as linear_probe
    from mimbench.evals import segmentation as segmentation
    from mimbench.launch.local import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, EXIT_TAKEN
    from mimbench.run.execute import default_place, execute

env.facts()  # the commit of this code, not of what is checked out when a run starts
registry.load_plugins()


def main(root: str, name: str, slot: int, options: dict[str, Any]) -> int:
    """Exit code of the run; everything it prints goes into its own log."""
    stop = Stop()
    stop.listen()
    store = Store(root)
    work = store.run(name).work
    log_to(work / "log.txt")
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
