"""`--protocols A,B`."""

from __future__ import annotations

from mimbench.errors import UserError, check_known
from mimbench.kinds import PROTOCOLS


def protocol_names(text: str | None) -> tuple[str, ...]:
    """Each once, in the order written; none where the option is not given."""
    names = tuple(name.strip() for name in text.split(",")) if text is not None else ()
    for name in names:
        check_known("--protocols", "protocol", name, PROTOCOLS)
        if names.count(name) > 1:
            raise UserError(f"--protocols: {name} is written twice.")
    return names
