"""K-means, for codebooks that begin from data."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

AT_ONCE = 8192  # points whose distances to all centers are held in memory


@torch.no_grad()
def kmeans(points: Tensor, count: int, iterations: int, *, on_sphere: bool = False) -> Tensor:
    """(n, D) points -> (count, D) centers, by Lloyd's algorithm from some of the points; a center without points stays.

    `on_sphere`: of unit vectors, compared by their cosine. The same points, in any order of ranks' work, give the same
    centers.
    """
    rng = torch.Generator().manual_seed(0)
    order = torch.randperm(len(points), generator=rng)
    if len(points) < count:
        order = torch.randint(len(points), (count,), generator=rng)
    centers = points[order[:count].to(points.device)]
    for _ in range(iterations):
        nearest = assigned(points, centers, on_sphere=on_sphere)
        sums = torch.zeros_like(centers).index_add_(0, nearest, points)
        sizes = nearest.bincount(minlength=count).unsqueeze(1)
        means = F.normalize(sums, dim=-1) if on_sphere else sums / sizes.clamp(min=1)
        centers = torch.where(sizes > 0, means, centers)
    return centers


def assigned(points: Tensor, centers: Tensor, *, on_sphere: bool = False) -> Tensor:
    """(n, D) -> (n,): the nearest center of each; the first of equals."""
    offset = 0.0 if on_sphere else 0.5 * centers.square().sum(-1)
    return torch.cat([(part @ centers.T - offset).argmax(-1) for part in points.split(AT_ONCE)])
