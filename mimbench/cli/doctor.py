"""`mimbench doctor`: whether this machine, and with a profile the cluster, can run mimbench. It changes nothing."""

from __future__ import annotations

import importlib.metadata
import itertools
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mimbench import env
from mimbench.data.sources.places import DATA_ROOT
from mimbench.errors import RunFailed, UserError
from mimbench.slurm.doctor import Check, cluster_checks
from mimbench.store.results import Store

if TYPE_CHECKING:
    from mimbench.slurm.profile import Profile

PROBE_BYTES = 64 * 2**20
LEAST_FREE = 5 * 2**30
SAME_IMPORT_NAME = ("mmengine", "mmcv", "mmsegmentation")  # and onedl-*, their maintained continuations


def report(store: Store, profile: Profile | None) -> Iterator[str]:
    """One line per check, as it is made; raises at the end if one found a problem."""
    checks = [_software(), _devices(), _disk(store), _data(), *([cluster_checks(store, profile)] if profile else [])]
    bad = 0
    for level, text in itertools.chain.from_iterable(checks):
        bad += level == "BAD"
        yield f"{level:4} {text}"
    if bad:
        raise RunFailed(f"{bad} checks found a problem")


def _software() -> Iterator[Check]:
    from mimbench import compat

    versions = env.versions()
    yield "ok", "versions: " + ", ".join(f"{name} {version}" for name, version in versions.items())
    if compat.operators_were_missing:
        yield (
            "warn",
            (
                f"torchvision {versions.get('torchvision')} was built for another torch than {versions.get('torch')}: "
                "its compiled operators do not load (mimbench declares them; `import timm` alone fails)"
            ),
        )
    installed = {distribution.name for distribution in importlib.metadata.distributions()}
    for name in SAME_IMPORT_NAME:
        if {name, f"onedl-{name}"} <= installed:
            yield (
                "warn",
                (
                    f"{name} and onedl-{name} are both installed under one import name, and which is used is undefined; "
                    f"fix: pip uninstall {name} onedl-{name} && pip install onedl-{name}"
                ),
            )


def _devices() -> Iterator[Check]:
    import torch

    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        yield "ok", f"GPU {index}: {properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    if not torch.cuda.is_available():
        yield "ok", f"no GPU; {os.cpu_count()} CPU cores ({env.facts()['cpu']})"
    yield "ok", "precision: " + ("bf16 is fast here" if env.bf16_pays() else "fp32 (bf16 would be slower here)")


def _disk(store: Store) -> Iterator[Check]:
    try:
        store.check_writable()
        free = shutil.disk_usage(store.root).free
        rate = _write_rate(store.root / f".doctor-{os.getpid()}")
    except UserError as error:
        yield "BAD", str(error)
    except OSError as error:
        yield "BAD", f"{store.root}: cannot be written ({error.strerror})"
    else:
        level = "ok" if free >= LEAST_FREE else "BAD"
        yield level, f"{store.root}: {free / 2**30:.0f} GiB free, writes {rate / 2**20:.0f} MiB/s"


def _write_rate(path: Path) -> float:
    """Bytes per second."""
    block, begun = os.urandom(2**20), time.perf_counter()
    try:
        with path.open("wb") as stream:
            for _ in range(PROBE_BYTES // len(block)):
                stream.write(block)
            stream.flush()
            os.fsync(stream.fileno())
        return PROBE_BYTES / (time.perf_counter() - begun)
    finally:
        path.unlink(missing_ok=True)


def _data() -> Iterator[Check]:
    yield "ok", "data: shapes (built-in)"
    root = os.environ.get(DATA_ROOT)
    if not root:
        yield "ok", f"data: no image data sets; set {DATA_ROOT} to the dataset root to use them"
    elif not Path(root).is_dir():
        yield "BAD", f"data: {DATA_ROOT}={root} is not a folder"
    else:
        names = sorted(p.name for p in Path(root).iterdir() if p.is_dir())
        yield "ok", f"data: {root} has {', '.join(names) or 'no folders'}"
