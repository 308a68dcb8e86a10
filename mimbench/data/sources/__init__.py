"""Data sets, one file per source."""

from collections.abc import Callable

from mimbench.data.sources.ade20k import ADE20K
from mimbench.data.sources.base import Source
from mimbench.data.sources.builtin import BuiltIn
from mimbench.data.sources.folder import ImageFolder

Sources = Callable[[str], Source]
NAMED: dict[str, type[Source]] = {"shapes": BuiltIn, "shapes-trial": BuiltIn}


class Folder(ImageFolder, ADE20K):
    """A folder of the user's, with labeled images, segmentation masks, or both."""


def source(name: str) -> Source:
    """The data set of this name: one of ours, or a folder under MIMBENCH_DATA. A plan makes one per name."""
    return NAMED.get(name, Folder)(name)
