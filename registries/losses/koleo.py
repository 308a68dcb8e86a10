"""DINOv2's regularizer."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mimbench.registry import LOSSES


@LOSSES.register_module("koleo")
class KoLeo:
    """Each prediction keeps away from its nearest neighbor in the whole batch, as directions; targets are not read (DINOv2)."""

    version = 1
    expects = "features"
    whole_batch = True

    def __call__(self, predictions: Tensor, targets: Tensor, mine: slice) -> Tensor:
        x = F.normalize(predictions, dim=-1)
        with torch.no_grad():
            own = torch.arange(mine.start, mine.stop, device=x.device).unsqueeze(1)
            nearest = (x[mine] @ x.T).scatter(1, own, float("-inf")).argmax(1)
        return -(F.pairwise_distance(x[mine], x[nearest], eps=1e-8) + 1e-8).log()
