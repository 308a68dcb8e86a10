"""Data sets, one file per source."""

from collections.abc import Callable

from mimbench.data.sources.ade20k import ADE20K
from mimbench.data.sources.base import Source
from mimbench.data.sources.builtin import BuiltIn
from mimbench.data.sources.folder import ImageFolder

Sources = Callable[[str], Source]
NAMED: dict[str, type[Source]] = {"shapes": BuiltIn}


def source(name: str) -> Source:
    """The data set of this name: one of ours, or a folder under MIMBENCH_DATA. A plan makes one per name."""
    if name in NAMED:
        return NAMED[name](name)
    return ADE20K(name) if ADE20K.is_layout_of(name) else ImageFolder(name)
