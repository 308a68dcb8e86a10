"""The labels of the images."""

import torch
from torch import Tensor

from mimbench.parts import Batch, PatchGrid, Tokenizer
from mimbench.registry import TOKENIZERS


@TOKENIZERS.register_module("labels")
class Labels(Tokenizer):
    """The class of each image, as supervised pre-training has it."""

    version = 1
    target = "codes"
    levels = ("image",)
    views = ("label",)

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        if classes < 2:
            raise ValueError(f"classes must be at least 2, not {classes}.")
        self.classes = classes

    def width(self, grid: PatchGrid) -> int:
        return self.classes

    @torch.no_grad()
    def forward(self, batch: Batch, grid: PatchGrid) -> Tensor:
        return batch["label"]
