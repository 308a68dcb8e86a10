"""Asking a run to stop: signal handlers set a flag, and whoever computes reads it where stopping loses nothing."""

from __future__ import annotations

import signal

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class Stop:
    """A flag that signal handlers set and the loop reads at the next step boundary."""

    def __init__(self) -> None:
        self.asked = False

    def listen(self) -> None:
        for number in SIGNALS:
            signal.signal(number, lambda *_: self.ask())

    def ignore(self) -> None:
        """From here on nothing is left to stop. Python gives signals back their deadly default as it ends, but not ignored ones."""
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def ask(self) -> None:
        self.asked = True
