"""The held-out score after every epoch: how fast a training learns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mimbench.runtime import Runtime
from mimbench.store.files import read_json, write_json


@dataclass(frozen=True)
class ByEpoch:
    """For `fit(watch=...)`. The file outlasts a kill; what was measured after the last checkpoint is measured again."""

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
            before = read_json(self.path) if self.path.exists() else {}
            write_json(self.path, {**before, **{str(epoch): score for epoch in ended}})

    def points(self) -> list[dict[str, float]]:
        """On rank 0, which writes the result: another node may not see the file yet."""
        if self.runtime.rank:
            return []
        return [{"epoch": int(epoch), "val": score} for epoch, score in
                sorted(read_json(self.path).items(), key=lambda point: int(point[0]))]  # fmt: skip
