"""The model's own prediction of another view."""

from mimbench.parts import PatchGrid, StudentTokenizer
from mimbench.registry import TOKENIZERS


@TOKENIZERS.register_module("twin")
class Twin(StudentTokenizer):
    """The prediction of the other view, with gradient, `dim` features (SimCLR, VICReg); null: as many as the encoder has."""

    version = 1
    target = "features"

    def __init__(self, dim: int | None = 128) -> None:
        super().__init__()
        if dim is not None and dim < 1:
            raise ValueError(f"dim must be at least 1, not {dim}.")
        self.features = dim

    def width(self, grid: PatchGrid) -> int:
        return self.dim if self.features is None else self.features
