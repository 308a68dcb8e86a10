"""The head of methods that compare views."""

import itertools

from torch import Tensor, nn

from mimbench.models.norm import BatchNorm
from mimbench.parts import Decoder, Encoded, Masks, PatchGrid, picked
from mimbench.registry import DECODERS


@DECODERS.register_module("projector")
class Projector(Decoder):
    """SimCLR's projector: an MLP with batch normalization over all ranks, of each view by itself.

    `last_norm` also normalizes the output, without learned parameters. `predictor` layers of the same kind follow in the
    student only, which so predicts the teacher's projection (BYOL, MoCo v3).
    """

    version = 1
    neutral = {"predictor": 0}  # noqa: RUF012
    restores_grid = False
    levels = ("image",)
    whole_batch = True  # its statistics are those of the whole batch

    def __init__(self, hidden: int = 2048, layers: int = 2, last_norm: bool = False, predictor: int = 0) -> None:
        super().__init__()
        if min(hidden, layers) < 1 or predictor < 0:
            raise ValueError(
                f"hidden and layers must be at least 1, predictor at least 0, not {hidden}, {layers} and {predictor}."
            )
        self.hidden, self.num_layers, self.last_norm, self.predictor = hidden, layers, last_norm, predictor

    def build(self, dim: int, width: int, grid: PatchGrid, last: Decoder | None = None) -> None:
        self.project = self._mlp([dim, *[self.hidden] * (self.num_layers - 1), width])
        inner = [self.hidden] * (self.predictor - 1)
        self.predict = self._mlp([width, *inner, width]) if self.predictor else nn.Identity()

    def _mlp(self, sizes: list[int]) -> nn.Sequential:
        layers: list[nn.Module] = []
        for index, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
            inner = index < len(sizes) - 2
            layers.append(nn.Linear(inputs, outputs, bias=not inner and not self.last_norm))
            if inner:
                layers += [BatchNorm(outputs), nn.ReLU()]
            elif self.last_norm:
                layers.append(BatchNorm(outputs, affine=False))
        return nn.Sequential(*layers)

    def forward(self, encoded: Encoded, masks: Masks | None) -> Tensor:
        return self.predict(self.taught(encoded, masks))

    def taught(self, encoded: Encoded, masks: Masks | None) -> Tensor:
        return self.project(picked(encoded, masks))
