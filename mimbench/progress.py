"""What a run under way leaves for those who look at it: its log, and how far it is."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

SECONDS = 1.0  # between two notes


def log_to(path: Path) -> None:
    """From here on everything this process prints goes into the run's own log, across attempts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    with path.open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)


class Progress:
    """work/progress.json: step, steps, rate and memory, for the display and `status`. At most once a second."""

    def __init__(self, work: Path) -> None:
        self.path = work / "progress.json"
        self.path.unlink(missing_ok=True)  # of an earlier attempt
        self.last, self.last_step = time.monotonic(), -1

    def __call__(self, step: int, steps: int) -> None:
        now = time.monotonic()
        if self.last_step < 0:  # where a resumed run begins: only from here on there is a rate
            self.last, self.last_step = now, step
        if now - self.last < SECONDS:
            return
        rate = max(0, step - self.last_step) / (now - self.last)
        self.last, self.last_step = now, step
        note = {"step": step, "steps": steps, "steps_per_second": round(rate, 2), "gpu_memory_bytes": gpu_memory()}
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(note))
        temporary.replace(self.path)


def gpu_memory() -> int | None:
    """Bytes this process took of its GPU at most; asking does not wait for the device."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    return int(torch.cuda.max_memory_reserved())
