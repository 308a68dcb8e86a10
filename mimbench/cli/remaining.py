"""How long a grid still takes: the plan's estimates, corrected by how long runs really take here."""

from __future__ import annotations

import time
from collections.abc import Mapping

from mimbench.report.format import duration

ENOUGH_SECONDS = 30.0  # of work, before it corrects the estimates


class Remaining:
    """Fed with what starts and ends; knows nothing of a grid without estimates."""

    def __init__(self, expected: Mapping[str, float], processes: int) -> None:
        self.left, self.processes = dict(expected), processes
        self.begun: dict[str, float] = {}
        self.worked = self.expected = 0.0  # seconds of the runs that ended

    def started(self, run: str) -> None:
        self.begun[run] = time.monotonic()

    def ended(self, run: str, outcome: str, seconds: float) -> None:
        """A run that was stopped goes on later; what a failed one would have taken nobody waits for."""
        self.begun.pop(run, None)
        if outcome == "stopped" or run not in self.left:
            return
        expected = self.left.pop(run)
        if outcome == "done":
            self.worked, self.expected = self.worked + seconds, self.expected + expected

    def seconds(self, shares: Mapping[str, float]) -> float:
        """`shares`: how much of the running runs is done, where they say so."""
        worked, expected = self.worked, self.expected
        for run, share in shares.items():
            if run in self.begun and share > 0:
                worked += time.monotonic() - self.begun[run]
                expected += share * self.left.get(run, 0)
        factor = worked / expected if worked > ENOUGH_SECONDS and expected else 1.0
        total = sum(seconds * (1 - shares.get(run, 0)) for run, seconds in self.left.items())
        return factor * total / min(self.processes, max(1, len(self.left)))

    def words(self, shares: Mapping[str, float]) -> str:
        """Nothing where nothing was estimated, or all is done."""
        return f", about {duration(self.seconds(shares))} left" if self.left else ""
