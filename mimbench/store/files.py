"""Files that are there whole or not at all, and names for what they hold."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from mimbench.errors import RunFailed, UserError

T = TypeVar("T")


def canonical(value: Any) -> str:
    """One text for one meaning: sorted keys, no spaces, floats as repr, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)


def sha256(value: Any) -> str:
    """Of the canonical text, in hex digits."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def file_name(text: str) -> str:
    """A path or a name as part of a file's name."""
    stem = Path(text).name
    if stem in ("", ".."):  # of "." or "../.."
        stem = Path(text).resolve().name
    for suffix in (".safetensors", ".pth", ".pt", ".bin"):
        stem = stem.removesuffix(suffix)
    return re.sub(r"[^\w.-]+", "-", stem).strip(".-") or "unnamed"


def is_path(text: str) -> bool:
    """Whether a data set is named by a path."""
    return "/" in text or text.startswith((".", "~"))


def data_name(text: str) -> str:
    """A data set's name as part of a file's name; of a path, digits of where it leads: other folders are called so too."""
    if not is_path(text):
        return file_name(text)
    path = os.path.abspath(os.path.expanduser(text))
    return f"{file_name(path)}-{sha256(path)[:4]}"


def fingerprint(value: Any) -> str:
    return sha256(value)[:12]


def sha256_file(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_atomically(path: Path, data: bytes | str, *, once: bool = False) -> bool:
    """Temp file in the same folder, fsync, rename. `once`: never replaces; False if the file was there already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(data.encode() if isinstance(data, str) else data)
            stream.flush()
            os.fsync(stream.fileno())
        if once:
            os.link(temporary, path)  # fails if the file exists, unlike replace
        else:
            os.replace(temporary, path)
        return True
    except FileExistsError:
        return False
    except OSError as error:  # that of a full disk names no file
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


LEFT_AFTER_SECONDS = 3600  # a temporary file of this age has lost its writer


def remove_leftovers(folder: Path) -> None:
    """Temporary files of writers that were killed, in the folder and below it."""
    for path in folder.rglob(".*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > LEFT_AFTER_SECONDS:
                path.unlink()


def write_json(path: Path, value: Any, *, once: bool = False) -> bool:
    return write_atomically(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n", once=once)


def map_threads(write: Callable[[T], object], items: Iterable[T]) -> None:
    """Write for each item. Threads wait for the disk together, instead of one after the other."""
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(write, items))  # raises what one of them raised


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file, or an error naming the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        canonical(value)  # refuses NaN and infinity, which Python reads
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}). Move it away to recompute the run.") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: not a JSON object. Move it away to recompute the run.")
    return value


@contextlib.contextmanager
def one_at_a_time(target: Path) -> Iterator[None]:
    """Processes of one machine that make the same file or folder wait for the first."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / f".{target.name}.lock").open("w") as lock:
        with contextlib.suppress(OSError):  # a file system without locks: they all make it, and one wins
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def make_folder_once(target: Path, fill: Callable[[Path], None]) -> Path:
    """Filled beside its place and renamed, so that no process sees half of it; the first of several wins."""
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    building.chmod(0o755)  # a group shares its cache
    try:
        fill(building)
        os.rename(building, target)
    except OSError as error:
        if not target.is_dir():
            raise error if error.filename else RunFailed(f"{target}: {error.strerror or error}") from error  # of numpy
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return target


def stamp(after: str = "") -> str:
    """A file name that sorts by time, and behind `after` even if the clock was set back; unique over hosts and processes."""
    now = time.time_ns()
    clock = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now // 10**9))
    when = f"{clock}.{now % 10**9:09d}"
    if when <= (last := after.partition("-")[0]):
        when = f"{last}1"
    return f"{when}-{socket.gethostname()}-{os.getpid()}"
