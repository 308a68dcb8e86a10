"""How a codebook is used."""

from __future__ import annotations

import torch
from torch import Tensor

MIN_PERPLEXITY = 0.25  # of the vocabulary (or of the codes seen, where they are fewer): below, it has collapsed


def use_of(codes: Tensor, vocabulary: int) -> tuple[dict[str, float], list[str]]:
    """Perplexity and share of codes in use; and the fault, if they have collapsed onto few."""
    counts = codes.flatten().bincount(minlength=vocabulary)
    shares = counts.double() / counts.sum()
    perplexity = (-torch.special.xlogy(shares, shares).sum()).exp().item()
    needed = MIN_PERPLEXITY * min(vocabulary, codes.numel())
    collapsed = f"its codebook collapsed: perplexity {perplexity:.1f} is not above {needed:.1f}"
    figures = {"perplexity": perplexity, "codes_used": (counts > 0).double().mean().item()}
    return figures, [] if perplexity > needed else [collapsed]
