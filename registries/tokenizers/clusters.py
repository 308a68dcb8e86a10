"""Online clusters of a teacher's patches."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from mimbench.models.sinkhorn import sinkhorn
from mimbench.parts import Level, Masks, PatchGrid, Taught, TeacherTokenizer
from mimbench.registry import TOKENIZERS


@TOKENIZERS.register_module("clusters")
class Clusters(TeacherTokenizer):
    """CAPI's targets: a linear head clusters the teacher's patches; Sinkhorn-Knopp balances the clusters, place by place.

    The head learns from its own assignments (cross-entropy at `head_temperature`), with an optimizer of its own; its
    gradient reaches the head only. Balancing runs over the images of the whole batch and of all ranks.
    """

    version = 1
    target = "distribution"
    whole_batch = True
    by_place = True

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
