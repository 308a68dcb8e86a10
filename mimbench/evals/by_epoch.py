"""The held-out score after every epoch: how fast a training learns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mimbench.runtime import Runtime
from mimbench.store.records import read_if_whole, write_record


@dataclass(frozen=True)
class ByEpoch:
    """For `fit(watch=...)`. The file outlasts a kill; what was measured after the last checkpoint is measured again.

    Nothing is chosen by it: of a damaged file the epochs so far are lost, and training goes on.
    """

    path: Path
    steps: int
    epochs: int
    measure: Callable[[], float]
    runtime: Runtime

    def __call__(self, step: int) -> None:
        ended = [epoch for epoch in range(1, self.epochs + 1) if epoch * self.steps // self.epochs == step]
        if not ended:
            return
        score = self.measure()
        if self.runtime.rank == 0:
            before = read_if_whole(self.path) or {}
            write_record(self.path, {**before, **{str(epoch): score for epoch in ended}})

    def points(self) -> list[dict[str, float]]:
        """On rank 0, which writes the result: another node may not see the file yet."""
        if self.runtime.rank:
            return []
        return [{"epoch": int(epoch), "val": score} for epoch, score in
                sorted((read_if_whole(self.path) or {}).items(), key=lambda point: int(point[0]))]  # fmt: skip
