"""Seeds that share stages: what a spread comes from."""

from __future__ import annotations

from dataclasses import dataclass

from mimbench.config.ranges import Count
from mimbench.errors import UserError


@dataclass(frozen=True)
class Nested:
    """How many pre-trainings each tokenizer gets, and how many evaluations each pre-training. Seed k is evaluation k."""

    pretraining: Count = 1
    evaluation: Count = 1

    def seeds(self, seed: int) -> dict[str, int]:
        """Of each stage, by kind of run. A row without pre-training has independent evaluations, encoder included."""
        pretraining = seed // self.evaluation
        return {"tokenizer": pretraining // self.pretraining, "pretrain": pretraining, "evaluation": seed}

    def first(self, seed: int) -> int:
        """The first seed that shares this one's tokenizer."""
        size = self.pretraining * self.evaluation
        return seed // size * size

    def check_seeds(self, seeds: tuple[int, ...], place: str) -> None:
        """A replicate with some of its runs would count like a whole one."""
        size = self.pretraining * self.evaluation
        groups = {self.first(seed) for seed in seeds}
        if len(seeds) != size * len(groups):
            first = min(group for group in groups if not set(range(group, group + size)) <= set(seeds))
            raise UserError(
                f"{place}: with nested {self.pretraining} x {self.evaluation}, seeds come in whole groups of {size}; the "
                f"group {first} to {first + size - 1} is not complete."
            )
