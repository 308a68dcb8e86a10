"""The linear prediction head."""

from torch import Tensor, nn

from mimbench.parts import Decoder, Encoded, Masks, PatchGrid
from mimbench.registry import DECODERS


@DECODERS.register_module("linear")
class Linear(Decoder):
    """One linear layer, applied to the predicted positions only (BEiT, SimMIM)."""

    version = 1
    restores_grid = False

    def build(self, dim: int, width: int, grid: PatchGrid) -> None:
        self.project = nn.Linear(dim, width)
        nn.init.trunc_normal_(self.project.weight, std=0.02, a=-0.02, b=0.02)  # BEiT cuts off at one deviation
        nn.init.zeros_(self.project.bias)

    def forward(self, encoded: Encoded, masks: Masks) -> Tensor:
        features = encoded.patches.flatten(0, 1).index_select(0, masks.predicted)  # (M, dim)
        return self.project(features)
