"""Data sets, one file per source."""

from collections.abc import Callable

from mimbench.data.sources import cifar
from mimbench.data.sources.ade20k import ADE20K
from mimbench.data.sources.base import Source
from mimbench.data.sources.builtin import BuiltIn
from mimbench.data.sources.folder import ImageFolder
from mimbench.data.sources.pack import DESCRIPTION, Pack
from mimbench.data.sources.places import BUILT_IN, folder_of

Sources = Callable[[str], Source]


class Folder(ImageFolder, ADE20K):
    """A folder of the user's, with labeled images, segmentation masks, or both."""


def source(name: str) -> Source:
    """The data set of this name or path: built in, or what its folder holds. A plan makes one per name."""
    if name in BUILT_IN:
        return BuiltIn(name)
    folder = folder_of(name)
    if (folder / DESCRIPTION).is_file():
        return Pack(name)
    return cifar.Cifar(name) if cifar.find(folder) else Folder(name)
