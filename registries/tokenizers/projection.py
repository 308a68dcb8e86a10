"""A teacher's projection of the image."""

from torch import Tensor

from mimbench.parts import Level, Masks, PatchGrid, Taught, TeacherTokenizer
from mimbench.registry import TOKENIZERS


@TOKENIZERS.register_module("projection")
class Projection(TeacherTokenizer):
    """What the teacher's decoder makes of the image, without the student's predictor: `dim` features (MoCo v3, BYOL)."""

    version = 1
    target = "features"
    levels = ("image",)
    needs_head = True

    def __init__(self, dim: int = 256) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim must be at least 1, not {dim}.")
        self.features = dim

    def width(self, grid: PatchGrid) -> int:
        return self.features

    def forward(self, taught: Taught, masks: Masks | None, level: Level) -> Tensor:  # type: ignore[override]
        return taught.head.taught(taught.encoded, None).float()
