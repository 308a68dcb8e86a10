"""The errors a user sees as one sentence, without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130  # of a command
EXIT_HELD = 75  # of the process of a run: another live process holds the run


class UserError(ValueError):
    """Something the user can fix: a config, a flag, a folder. Shown without a traceback; exit code 2."""


class RunFailed(RuntimeError):
    """A run that was started ended in an error; exit code 1."""


class Diverged(RunFailed):
    """The loss of a training run is no longer finite."""


class ProcessDied(RunFailed):
    """The process of a run was killed or crashed before it could record an error."""


class Interrupted(Exception):
    """The run was asked to stop, has checkpointed, and can go on later; exit code 130."""


def nearest(word: str, allowed: Iterable[str]) -> str:
    """A hint naming the likeliest intended word, or nothing."""
    close = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""


RENAMED = {  # keys of version 0.1, by what they are
    ("key", "longer"): "steps_multiplier",
    ("key", "left_out_at"): "a grid file of its own for such rows (runs are shared)",
    ("argument", "over"): "the masker's `predict`",
    ("key", "labelled"): "labeled",
    ("setting", "neighbours"): "neighbors",
    ("key", "throttle"): "max_parallel",
    ("key", "fruitless"): "max_stalled_requeues",
    ("key", "recompute"): "activation_checkpointing",
}


def unknown(place: str, what: str, word: object, allowed: Iterable[object]) -> UserError:
    """The error for a name that is not in a known set. In YAML a name may be any value: {1: 2}, {null: 3}."""
    names = sorted(set(map(str, allowed)))
    renamed = RENAMED.get((what.partition(" ")[0], str(word)))
    hint = f" Since 0.2 it is {renamed}." if renamed else nearest(str(word), names)
    return UserError(f"{place}: unknown {what} '{word}'.{hint} Allowed: {', '.join(names) or 'no name at all'}.")


def check_known(place: str, what: str, word: object, allowed: Collection[object]) -> None:
    if word not in allowed:
        raise unknown(place, what, word, allowed)
