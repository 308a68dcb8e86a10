"""The command line as tests call it."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from pathlib import Path

from mimbench.cli import commands as cli

ROOT = Path(__file__).parent.parent


def mimbench(*words):
    """In this process: importing torch again takes seconds, which would be most of many tests' time."""
    said, complained = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complained):
        code = cli.main([str(word) for word in words])
    return subprocess.CompletedProcess(words, code, said.getvalue(), complained.getvalue())


def mimbench_process(*words):
    """In a process of its own, as one types it."""
    words = [sys.executable, "-m", "mimbench", *map(str, words)]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def new_results(folder, rendered):
    """A results folder that has the built-in data already."""
    folder.mkdir()
    (folder / "cache").symlink_to(rendered)
    return folder
