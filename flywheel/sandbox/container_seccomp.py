"""The engine's own system call profile, less what programs do not need.

podman lets containers make namespaces, so that containers can be run in containers; programs have no use for it.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flywheel.sandbox.seccomp import ABSENT, REFUSED

_PROFILES = ("/etc/containers/seccomp.json", "/usr/share/containers/seccomp.json")
_NEW_NAMESPACES = 0x7E020000
"""Flags of clone() that make namespaces."""


def profile() -> str | None:
    """A profile as JSON; None where the engine's is not in a file: then it is what the engine has built in."""
    for place in map(Path, _PROFILES):
        if place.exists():
            return json.dumps(narrowed(json.loads(place.read_text())))
    return None


def narrowed(given: dict[str, Any]) -> dict[str, Any]:
    """A profile of the containers' project, narrowed."""
    rules = [
        {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [_without(_NEW_NAMESPACES)]},
        {"names": ABSENT.split(), "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS},
    ]
    return {**given, "syscalls": [*rules, *_less(given["syscalls"], {*REFUSED.split(), *ABSENT.split(), "clone"})]}


def _without(flags: int) -> dict[str, Any]:
    return {"index": 0, "value": flags, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}


def _less(rules: list[dict[str, Any]], refused: set[str]) -> Iterator[dict[str, Any]]:
    for rule in rules:
        names = [name for name in rule.get("names", []) if name not in refused]
        if names:
            yield {**rule, "names": names}
