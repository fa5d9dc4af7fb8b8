"""How a run ended, in one line for people: its status, and the line of its stderr that tells most."""

from __future__ import annotations

import re
from collections.abc import Sequence

from flywheel.sandbox.job import Outcome

_BEGINS = re.compile(r"\S*(error|exception|panic)", re.IGNORECASE)
_TELLS = re.compile(r"error|exception|panic", re.IGNORECASE)
_HINTS = re.compile(r"undefined|unused|not used|denied", re.IGNORECASE)
_LONGEST = 200


def how(outcome: Outcome) -> str:
    """Such as ``exited with 1: KeyError: 3``."""
    said = [line.strip() for line in outcome.stderr.decode(errors="replace").splitlines() if line.strip()]
    return f"{outcome}: {_telling(said, outcome.status)[:_LONGEST]}" if said else str(outcome)


def _telling(said: Sequence[str], status: str) -> str:
    """Python ends with what went wrong, compilers begin with it, others put the source above and the stack below."""
    if "stack traceback:" in said[1:]:  # Lua's
        return said[said.index("stack traceback:", 1) - 1]
    if said[0].startswith("Traceback") or (status != "compile_error" and _BEGINS.match(said[-1])):
        return said[-1]
    for tells in (_BEGINS.match, _TELLS.search, _HINTS.search):
        for line in said:
            if tells(line):
                return line
    return said[-1]
