"""OpenAI's published discrete VAE, BEiT's tokenizer."""

from pathlib import Path

import torch
from torch import Tensor

from mimbench.models.dalle_encoder import STRIDE, DalleEncoder, load_dalle
from mimbench.parts import Batch, PatchGrid, Tokenizer
from mimbench.registry import TOKENIZERS

VOCABULARY = 8192  # of the published one


@TOKENIZERS.register_module("dalle")
class Dalle(Tokenizer):
    """The codes of DALL-E's dVAE, from a file: the published encoder.pkl, mmpretrain's or FLAVA's weights.

    A code is of 8 x 8 pixels of the view `raw`, and sees more around it.
    """

    version = 1
    target = "codes"
    views = ("raw",)
    files = ("weights",)
    stride = STRIDE

    def __init__(self, weights: str) -> None:
        super().__init__()
        self.weights = weights
        self.encoder: DalleEncoder | None = None

    def load(self) -> None:
        self.encoder = load_dalle(Path(self.weights))

    def width(self, grid: PatchGrid) -> int:
        return VOCABULARY if self.encoder is None else self.encoder.vocabulary

    @torch.no_grad()
    def forward(self, batch: Batch, grid: PatchGrid) -> Tensor:
        assert self.encoder is not None, "load() comes first"
        raw = batch["raw"]
        if raw.shape[-2] != grid.rows * STRIDE or raw.shape[-1] != grid.columns * STRIDE:
            raise ValueError(
                f"tokenizer 'dalle' has one code per {STRIDE} x {STRIDE} pixels: {grid.rows} x {grid.columns} patches need "
                f"{grid.rows * STRIDE} x {grid.columns * STRIDE} pixels, not {raw.shape[-2]} x {raw.shape[-1]}."
            )
        with torch.autocast(raw.device.type, enabled=False):  # bf16 would change codes
            return self.encoder(raw.float()).argmax(1).flatten(1)
