"""The errors a user sees as one sentence, without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130  # of a command


class UserError(ValueError):
    """Something the user can mend: a config, a flag, a folder. Shown without a traceback; exit code 2."""


class RunFailed(RuntimeError):
    """A run that was started ended in an error; exit code 1."""


class ProcessDied(RunFailed):
    """The process of a run was killed or crashed, and could not say so itself."""


class Interrupted(Exception):
    """The run was asked to stop, has checkpointed, and can go on later; exit code 130."""


def nearest(word: str, allowed: Iterable[str]) -> str:
    """A hint naming the likeliest intended word, or nothing."""
    close = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""


def unknown(place: str, what: str, word: object, allowed: Iterable[object]) -> UserError:
    """The error for a name that is not one of a known set. In YAML a name may be any value: {1: 2}, {null: 3}."""
    names = sorted(map(str, allowed))
    hint = nearest(str(word), names)
    return UserError(f"{place}: unknown {what} '{word}'.{hint} Allowed: {', '.join(names) or 'none'}.")
