"""The health of a pre-training, on held-out images after its end: do features and targets still differ between images?"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mimbench.data.views import Images, normalize
from mimbench.pretrain.fit import to_device
from mimbench.pretrain.notes import Notes, entropy_of_each, mean_entropy, share_used
from mimbench.pretrain.step import Pretraining
from mimbench.runtime import Runtime

IMAGES, BATCH = 256, 64
EPSILON = 1e-9  # of a mean square: rounding in fp32
# Below, features are nearly the same for all images, or nearly on one line. 300 steps of 13 recipes at tiny left the mean of the
# patches with 0.02 to 0.84 and 2.4 to 7.5; I-JEPA with 0.13 and 1.2 (why was not looked into)
LEAST_VARIANCE, LEAST_RANK = 1e-3, 1.5
LEAST_ENTROPY = 0.25  # of the mean target, as a share of the uniform one's
UNIFORM = 0.99  # entropy of each target, as a share of the uniform one's


@torch.no_grad()
def health(
    objective: Pretraining, held_out: Images, views: Callable[[range], dict[str, Any]], runtime: Runtime
) -> tuple[dict[str, Any], list[str]]:
    """Figures and flags. `views(indices)`: these images as a training batch; the encoder that leaves the run sees them plain."""
    was, count = objective.training, min(IMAGES, len(held_out))
    objective.eval()
    found: dict[str, Any] = {"images": count, **features(objective.kept(), held_out, count, runtime)}
    targets = targets_of(objective, count, views, runtime)
    objective.train(was)
    return {**found, **({"targets": targets} if targets else {})}, flags(found, targets)


def features(encoder: Any, held_out: Images, count: int, runtime: Runtime) -> dict[str, Any]:
    """Of the mean-pooled patches and of the patches themselves."""
    pooled, patches = Moments(encoder.dim), Moments(encoder.dim)
    for indices in _batches(count):
        raw = held_out.plain(indices).to(runtime.device)
        tokens = encoder(normalize(raw)).patches.float()  # (B, N, D)
        pooled.add(tokens.mean(1))
        patches.add(tokens.flatten(0, 1))
    return {"pooled": pooled.spread(), "patches": patches.spread()}


class Moments:
    """Of vectors that come in batches."""

    def __init__(self, dim: int) -> None:
        self.count = 0
        self.first = torch.zeros(dim, dtype=torch.float64)
        self.second = torch.zeros(dim, dim, dtype=torch.float64)

    def add(self, vectors: Tensor) -> None:
        vectors = vectors.double().cpu()
        self.count += len(vectors)
        self.first += vectors.sum(0)
        self.second += vectors.T @ vectors

    def spread(self) -> dict[str, float]:
        """The share of the mean square that is variance, and the effective rank: exp of the entropy of its eigenvalues."""
        mean = self.first / self.count
        covariance = self.second / self.count - torch.outer(mean, mean)
        square, values = float(self.second.trace()) / self.count, torch.linalg.eigvalsh(covariance).clamp(min=0)
        total = float(values.sum())
        if not total > EPSILON * square:
            return {"variance": 0.0, "effective_rank": 1.0}  # all equal, but for rounding
        shares = values / total
        rank = math.exp(float(-torch.special.xlogy(shares, shares).sum()))
        return {"variance": total / square, "effective_rank": rank}


def targets_of(
    objective: Pretraining, count: int, views: Callable[[range], dict[str, Any]], runtime: Runtime
) -> dict[str, dict[str, float]]:
    """Of each term whose targets are codes or distributions; as ranks share a batch, each sees all of it."""
    objective.notes = notes = Notes()
    for step, indices in enumerate(_batches(count)):
        for micro in objective.prepare(views(indices), step, runtime):
            objective(to_device({**micro, "progress": 1.0}, runtime.device))
    objective.notes = None
    found = {}
    for term, sums in notes.summed().targets.items():
        mean, codes = mean_entropy(sums), sums.shape[1] - 1
        found[term] = {"codes": codes, "used": share_used(sums), "perplexity": codes**mean,
                       "mean_target_entropy": mean, "target_entropy": entropy_of_each(sums)}  # fmt: skip
    return found


def _batches(count: int) -> list[range]:
    return [range(start, min(start + BATCH, count)) for start in range(0, count, BATCH)]


def flags(found: dict[str, Any], targets: dict[str, dict[str, float]]) -> list[str]:
    """A collapse, in a sentence each."""
    said = []
    for what, spread in (("the mean of an image's patches", found["pooled"]), ("patches", found["patches"])):
        variance, rank = spread["variance"], spread["effective_rank"]
        if variance < LEAST_VARIANCE or rank < LEAST_RANK:
            said.append(f"collapsed features: {what} vary by {variance:.2g} of their square, in {rank:.1f} directions")
    for term, of_term in targets.items():
        if math.log(of_term["perplexity"]) < LEAST_ENTROPY * math.log(of_term["codes"]):
            said.append(
                f"collapsed targets of term {term}: perplexity {of_term['perplexity']:.1f} of {of_term['codes']:.0f}"
            )
        if of_term["target_entropy"] > UNIFORM:
            said.append(f"collapsed targets of term {term}: each is nearly the uniform distribution")
    return said
