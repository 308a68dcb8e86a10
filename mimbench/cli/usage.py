"""How the command line answers what it does not understand: one sentence, with the nearest command or option."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from mimbench.errors import EXIT_USAGE, nearest
from mimbench.inert import for_terminal

OVERVIEW = """\
mimbench {version}: a bench for masked image modeling

  mimbench plan ablations                 what it computes, and how long
  mimbench run ablations                  BEiT's ablation on built-in data, CPU
  mimbench run ablations --scale smoke    in minutes; its numbers mean nothing
  mimbench run ablations --data ./photos  the same on a folder of images
  mimbench evaluate vit.safetensors       a checkpoint against random weights
  mimbench status                         what is done, running, failed
  mimbench report ablations               the table and the page
  mimbench list grids                     or recipes, scales, protocols, ...

`mimbench --help` lists all commands, `mimbench COMMAND --help` its options."""


class Parser(argparse.ArgumentParser):
    """Each command answers for its own words, where argparse leaves unknown ones to the first parser."""

    def __init__(self, *args: Any, optional_words: Sequence[str] = (), **more: Any) -> None:
        super().__init__(*args, **more)
        self.optional_words = optional_words  # `grid` in `run grid ablations`

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        words = list(sys.argv[1:] if args is None else args)
        if words and words[0] in self.optional_words:
            words = words[1:]
        found, unknown = super().parse_known_args(words, namespace)
        if unknown:
            self.error(self._unknown(unknown[0]))
        return found, unknown

    def _unknown(self, word: str) -> str:
        if not word.startswith("-"):
            return f"'{word}' is one word too many."
        option, known = word.partition("=")[0], [o for o in self._option_string_actions if o.startswith("--")]
        return f"unknown option {option}.{nearest(option, known)}"

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Names the nearest choice, and calls a command a command."""
        choices = action.choices
        if choices is None or value in choices:
            return
        known = list(map(str, choices))
        what = "command" if isinstance(action, argparse._SubParsersAction) else action.dest
        self.error(f"unknown {what} '{value}'.{nearest(str(value), known)} Allowed: {', '.join(known)}.")

    def error(self, message: str) -> NoReturn:
        sentence = message if message.endswith((".", "?")) else f"{message}."
        self.exit(EXIT_USAGE, f"{self.prog}: {for_terminal(sentence)} See `{self.prog} --help`.\n")
