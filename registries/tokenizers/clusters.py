"""Online clusters of a teacher's patches."""

from typing import Any

import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from mimbench.models.ranks import world
from mimbench.parts import Level, Masks, PatchGrid, Taught, TeacherTokenizer
from mimbench.registry import TOKENIZERS

EPSILON = 1e-8


@TOKENIZERS.register_module("clusters")
class Clusters(TeacherTokenizer):
    """CAPI's targets: a linear head clusters the teacher's patches; Sinkhorn-Knopp balances the clusters, place by place.

    The head learns from its own assignments (cross-entropy at `head_temperature`), with an optimizer of its own; its
    gradient reaches the head only. Balancing runs over the images of the whole batch and of all ranks.
    """

    version = 1
    target = "distribution"
    whole_batch = True

    def __init__(
        self,
        clusters: int = 16384,
        temperature: float = 0.06,
        head_temperature: float = 0.12,
        iterations: int = 3,
        lr: float = 5e-4,
    ) -> None:
        super().__init__()
        if clusters < 2 or iterations < 1:
            raise ValueError(f"clusters must be at least 2 and iterations at least 1, not {clusters} and {iterations}.")
        if not (temperature > 0 and head_temperature > 0 and lr > 0):
            raise ValueError("temperature, head_temperature and lr must be greater than 0.")
        self.clusters, self.temperature, self.head_temperature = clusters, temperature, head_temperature
        self.iterations, self.lr = iterations, lr

    def width(self, grid: PatchGrid) -> int:
        return self.clusters

    def build(self, dim: int, depth: int) -> None:
        super().build(dim, depth)
        self.head = nn.Linear(dim, self.clusters)
        nn.init.normal_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def _scores(self, taught: Taught) -> Tensor:
        return self.head(F.normalize(taught.encoded.patches.float(), dim=-1))  # (B, N, clusters)

    def forward(self, taught: Taught, masks: Masks | None, level: Level) -> Tensor:  # type: ignore[override]
        return sinkhorn(self._scores(taught) / self.temperature, self.iterations)

    def own_loss(self, taught: Taught, target: Tensor) -> Tensor:
        log_probability = (self._scores(taught) / self.head_temperature).log_softmax(-1)
        return -(target * log_probability).sum(-1).mean()

    def own_optimizer(self) -> dict[str, Any]:
        return {"lr": self.lr, "betas": (0.9, 0.95), "weight_decay": 0.0}


def sinkhorn(scores: Tensor, iterations: int) -> Tensor:
    """(B, N, K) scores -> assignments that sum to 1 per patch; per place, the clusters get equal shares of the batch."""
    most = scores.amax(0, keepdim=True)  # of each place and cluster: the first division cancels it
    if world() > 1:
        dist.all_reduce(most, op=dist.ReduceOp.MAX)
    weights = (scores - most).exp()
    for _ in range(iterations):
        per_cluster = weights.sum(0, keepdim=True)  # (1, N, K)
        if world() > 1:
            dist.all_reduce(per_cluster)
        weights = weights / (per_cluster + EPSILON)
        weights = weights / (weights.sum(-1, keepdim=True) + EPSILON)
    return weights
