"""Modules in torch's format before 1.6, read without executing anything: torch's safe loader refuses them.

The file is a row of pickles (magic number, protocol, system, the object, the keys of its storages), then for each storage
its number of elements and its bytes.
"""

from __future__ import annotations

import pickle
import struct
from collections import OrderedDict
from collections.abc import Mapping
from typing import IO, Any

import torch

MAGIC = 0x1950A86A20F9469CFC6C
DTYPES = {"FloatStorage": torch.float32, "HalfStorage": torch.float16, "LongStorage": torch.int64}
SAFE: dict[str, Any] = {
    "collections.OrderedDict": OrderedDict,
    "builtins.set": set,
    "torch.device": torch.device,
    "torch._utils._rebuild_tensor_v2": torch._utils._rebuild_tensor_v2,
    "torch._utils._rebuild_parameter": torch._utils._rebuild_parameter,
    **{f"torch.{name}": name for name in DTYPES},
}


class RestrictedUnpickler(pickle.Unpickler):
    """Knows a few names; every other one is refused."""

    def __init__(self, file: IO[bytes], known: Mapping[str, Any]) -> None:
        super().__init__(file)
        self.known = {**SAFE, **known}
        self.storages: dict[str, tuple[torch.UntypedStorage, torch.dtype]] = {}

    def find_class(self, module: str, name: str) -> Any:
        module = "builtins" if module == "__builtin__" else module  # as Python 2 called it
        if f"{module}.{name}" not in self.known:
            raise pickle.UnpicklingError(f"GLOBAL {module}.{name} is not allowed")
        return self.known[f"{module}.{name}"]

    def persistent_load(self, saved: Any) -> Any:
        """A storage, filled later; or a module's class, beside its source code."""
        if saved[0] == "module":
            return saved[1]
        _, kind, key, _, count, view = saved
        if view is not None or kind not in DTYPES:
            raise pickle.UnpicklingError(f"a storage of the kind {kind!r} is not allowed")
        storage, dtype = self.storages.setdefault(
            key, (torch.UntypedStorage(count * DTYPES[kind].itemsize), DTYPES[kind])
        )
        return torch.storage.TypedStorage(wrap_storage=storage, dtype=dtype, _internal=True)


def load_old_module(file: IO[bytes], known: Mapping[str, Any]) -> Any:
    """The object in a file, `known` names beside torch's own."""
    if RestrictedUnpickler(file, {}).load() != MAGIC:
        raise pickle.UnpicklingError("no file of torch.save")
    for _ in ("protocol", "system"):
        RestrictedUnpickler(file, {}).load()
    unpickler = RestrictedUnpickler(file, known)
    found = unpickler.load()
    for key in RestrictedUnpickler(file, {}).load():
        storage, dtype = unpickler.storages[key]
        (count,) = struct.unpack("<q", file.read(8))
        content = file.read(count * dtype.itemsize)
        if not len(content) == count * dtype.itemsize == storage.nbytes():
            raise pickle.UnpicklingError("the file is truncated")
        storage.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8).untyped_storage())
    return found
