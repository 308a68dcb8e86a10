"""The styles, templates and scripts that stand beside this file."""

from __future__ import annotations

import importlib.resources


def asset(name: str) -> str:
    return importlib.resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
