"""A teacher's features."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mimbench.parts import Level, Masks, PatchGrid, Taught, TeacherTokenizer
from mimbench.registry import TOKENIZERS


@TOKENIZERS.register_module("latent")
class Latent(TeacherTokenizer):
    """The teacher's patch features: its output (I-JEPA, frozen teachers), or the mean of its last `layers` blocks (data2vec).

    Each is normalized over its features without learned parameters, unless `norm: false`; `normalize_mean` normalizes the
    mean over blocks once more, as data2vec does.
    """

    version = 1
    target = "features"

    def __init__(self, layers: int = 0, normalize_mean: bool = False, norm: bool = True) -> None:
        super().__init__()
        if layers < 0:
            raise ValueError(f"layers must be at least 0, not {layers}.")
        self.layers, self.normalize_mean, self.norm = layers, normalize_mean, norm

    def build(self, dim: int, depth: int) -> None:
        if self.layers > depth:
            raise ValueError(f"tokenizer 'latent': layers: the teacher has {depth} blocks, not {self.layers}.")
        super().build(dim, depth)

    def width(self, grid: PatchGrid) -> int:
        return self.dim

    def taps(self) -> tuple[int, ...]:
        return tuple(range(self.depth - self.layers, self.depth))

    def forward(self, taught: Taught, masks: Masks | None, level: Level) -> Tensor:  # type: ignore[override]
        encoded = taught.encoded
        if not self.layers:
            return self._normalized(encoded.patches)
        mean = torch.stack([self._normalized(encoded.taps[block][:, 1:]) for block in self.taps()]).mean(0)
        return F.layer_norm(mean, mean.shape[-1:]) if self.normalize_mean else mean

    def _normalized(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.float(), x.shape[-1:]) if self.norm else x.float()
