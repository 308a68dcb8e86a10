"""What a step notes beside its loss: the loss of each term, and how its targets use their codes. On the device, no copy to the CPU."""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
from torch import Tensor

from mimbench.models.ranks import world


class Notes:
    """Sums over micro-batches; of codes and distributions only, as features have no codes."""

    def __init__(self) -> None:
        self.losses: dict[str, Tensor] = {}  # by term
        self.targets: dict[str, Tensor] = {}  # by term, as `usage` makes them

    def add(self, term: str, loss: Tensor, targets: list[Tensor], codes: int | None) -> None:
        """`codes`: how many there are; None for features."""
        self.losses[term] = self.losses.get(term, 0.0) + loss.detach()
        if codes is None:
            return
        for target in targets:
            found = usage(target.detach(), codes)
            self.targets[term] = self.targets[term] + found if term in self.targets else found

    def summed(self) -> Notes:
        """Over all ranks. Every rank must call it."""
        for sums in (*self.losses.values(), *self.targets.values()):
            if world() > 1:
                dist.all_reduce(sums)
        return self

    def columns(self) -> dict[str, float]:
        """For a curve: the losses where there are several, and the entropy of the mean target."""
        losses = {f"loss.{term}": float(loss) for term, loss in self.losses.items()} if len(self.losses) > 1 else {}
        entropies = {f"mean_target_entropy.{term}": mean_entropy(sums) for term, sums in self.targets.items()}
        return {**losses, **entropies}


def usage(target: Tensor, codes: int) -> Tensor:
    """(2, codes + 1): the sum of the targets and their entropies'; how often each code is the likeliest, and their number."""
    if target.is_floating_point():
        rows = target.float().flatten(0, -2)  # (n, codes)
        shares, entropy, chosen = rows.sum(0), -torch.special.xlogy(rows, rows).sum(), rows.argmax(-1)
    else:
        chosen = target.flatten()
        shares, entropy = torch.bincount(chosen, minlength=codes).float(), target.new_zeros((), dtype=torch.float32)
    counts = torch.bincount(chosen, minlength=codes).float()
    number = counts.sum()
    return torch.stack([torch.cat([shares, entropy[None]]), torch.cat([counts, number[None]])])


def mean_entropy(sums: Tensor) -> float:
    """Of the mean target, as a share of the entropy of the uniform one."""
    shares = sums[0, :-1].double() / sums[1, -1].double()
    return float(-torch.special.xlogy(shares, shares).sum()) / math.log(len(shares))


def entropy_of_each(sums: Tensor) -> float:
    """The mean of the targets' entropies, as the same share."""
    return float(sums[0, -1] / sums[1, -1]) / math.log(sums.shape[1] - 1)


def share_used(sums: Tensor) -> float:
    """Of the codes: those that are the likeliest of at least one target."""
    return float((sums[1, :-1] > 0).double().mean())
