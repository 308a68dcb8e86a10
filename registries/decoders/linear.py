"""The linear prediction head."""

from torch import Tensor, nn

from mimbench.parts import Decoder, Encoded, Masks, PatchGrid, picked
from mimbench.registry import DECODERS


@DECODERS.register_module("linear")
class Linear(Decoder):
    """One linear layer, applied to the predicted positions only (BEiT, SimMIM), or to the class token.

    `norm` puts a LayerNorm before it (MaskFeat).
    """

    version = 1
    neutral = {"norm": False}  # noqa: RUF012
    restores_grid = False
    levels = ("patch", "image")

    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        self.with_norm = norm

    def build(self, dim: int, width: int, grid: PatchGrid, last: Decoder | None = None) -> None:
        self.norm = nn.LayerNorm(dim, eps=1e-6) if self.with_norm else nn.Identity()
        self.project = nn.Linear(dim, width)
        nn.init.trunc_normal_(self.project.weight, std=0.02, a=-0.02, b=0.02)  # BEiT cuts off at one deviation
        nn.init.zeros_(self.project.bias)

    def forward(self, encoded: Encoded, masks: Masks | None) -> Tensor:
        return self.rows(picked(encoded, masks))

    def rows(self, x: Tensor) -> Tensor:
        return self.project(self.norm(x))
