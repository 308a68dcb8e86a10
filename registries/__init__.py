"""The parts that ship. Imported as `mimbench.registries`; one part per file, file name = registered name."""

import importlib
import pkgutil

if __name__ != "mimbench.registries":
    raise ImportError(
        "import this package as `mimbench.registries`: under another name every part would register twice"
    )

KINDS = ("tokenizers", "maskers", "losses", "decoders")

for _kind in KINDS:
    _package = importlib.import_module(f"{__name__}.{_kind}")
    for _module in pkgutil.iter_modules(_package.__path__):
        importlib.import_module(f"{_package.__name__}.{_module.name}")
