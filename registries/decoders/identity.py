"""No decoder."""

from torch import Tensor

from mimbench.parts import Decoder, Encoded, Masks, PatchGrid, picked
from mimbench.registry import DECODERS


@DECODERS.register_module("identity")
class Identity(Decoder):
    """The encoder's features as they are: of the predicted positions, or of the class token (DINOv2's KoLeo)."""

    version = 1
    restores_grid = False
    keeps_width = True
    levels = ("patch", "image")

    def build(self, dim: int, width: int, grid: PatchGrid, last: Decoder | None = None) -> None:
        if width != dim:
            raise ValueError(f"decoder 'identity' predicts {dim} features, not {width}.")

    def forward(self, encoded: Encoded, masks: Masks | None) -> Tensor:
        return self.rows(picked(encoded, masks))

    def rows(self, x: Tensor) -> Tensor:
        return x
