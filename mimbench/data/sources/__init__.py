"""Data sets, one file per source."""

import functools
import os
from collections.abc import Callable

from mimbench.data.sources import cifar
from mimbench.data.sources.ade20k import ADE20K
from mimbench.data.sources.base import Source
from mimbench.data.sources.builtin import BuiltIn
from mimbench.data.sources.folder import ImageFolder
from mimbench.data.sources.pack import DESCRIPTION, Pack
from mimbench.data.sources.places import BUILT_IN, DATA_ROOT, folder_of

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


def opened(name: str) -> Source:
    """As `source`, and the same one again within a run: to list a large folder takes a while."""
    return _opened(name, os.environ.get(DATA_ROOT))


@functools.lru_cache(maxsize=4)
def _opened(name: str, root: str | None) -> Source:
    return source(name)


def forget() -> None:
    """Before a run: its process may have carried out another, and folders change."""
    _opened.cache_clear()
