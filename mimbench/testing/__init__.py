"""Contract tests for parts, ours and yours: call the check of its kind on an instance from your own tests.

    from mimbench.testing import check_masker

    def test_my_masker_keeps_the_contract():
        check_masker(MyMasker(ratio=0.5))

Each check runs in milliseconds on the CPU, restores the global random state, and raises AssertionError with a sentence
that names the part and what the contract in `mimbench.parts` requires. Pass tokenizers and decoders as constructed: the
check builds them. Every check takes a `grid`, for parts that do not support the default one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mimbench.testing.decoders import check_decoder
from mimbench.testing.losses import check_loss
from mimbench.testing.maskers import check_masker
from mimbench.testing.tokenizers import check_tokenizer

__all__ = ["CHECKS", "check_decoder", "check_loss", "check_masker", "check_tokenizer"]

CHECKS: dict[str, Callable[[Any], None]] = {
    "tokenizer": check_tokenizer,
    "masker": check_masker,
    "loss": check_loss,
    "decoder": check_decoder,
}
