"""Compilers that start warm: what one reads for every program is made once per executor, and read by all programs.

Most of a small program's compilation goes into what is the same for all: the standard library's types (TypeScript), the
packages that tests import (Go), a thousand headers (C++), loading the compiler itself (Java). A row of ``languages.py``
says how that is made ahead, in a sandbox like any program's, from sources of ours; programs see it read-only.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flywheel.sandbox.compiled import COMPILING
from flywheel.sandbox.diagnosis import how
from flywheel.sandbox.job import Outcome
from flywheel.sandbox.languages import Language
from flywheel.sandbox.slot import Order

_MADE = "warm/"


@dataclass(frozen=True)
class Toolchain:
    """How programs of a language are compiled: a command as in ``Language.compile``, and the environment."""

    compile: tuple[str, ...] | None
    env: Mapping[str, str]


@dataclass
class WarmCompilers:
    """The toolchains of an executor.

    Attributes:
        folder: where what is made ahead is kept, in a folder per language.
        shown: what that folder is called in a sandbox.
    """

    folder: Path
    shown: str
    _ready: dict[str, Toolchain] = field(default_factory=dict)
    _cold: dict[str, str] = field(default_factory=dict)
    _locks: dict[str, threading.Lock] = field(default_factory=dict)

    def of(self, row: Language, run: Callable[[Order], Outcome]) -> Toolchain:
        """A language's toolchain; the first who asks makes what it needs, while others wait.

        Where that cannot be made (an older Node, say), programs are compiled without it; ``remarks`` says so.

        Args:
            run: runs one program in a sandbox.
        """
        with self._locks.setdefault(row.name, threading.Lock()):
            if row.name not in self._ready:
                self._ready[row.name] = self._made(row, run)
            return self._ready[row.name]

    def remarks(self) -> list[str]:
        """Which compilers start cold, and why."""
        return [f"{name} is compiled slowly: {why}" for name, why in sorted(self._cold.items())]

    def _made(self, row: Language, run: Callable[[Order], Outcome]) -> Toolchain:
        plain = Toolchain(row.compile, row.env)
        if row.warm is None:
            return plain
        argv = ("sh", "-ec", f"mkdir {_MADE}\n{row.warm.make}")
        order = Order(row.warm.files, COMPILING, argv, environment=row.env, fetch=None, address_space=row.address_space)
        outcome = run(order)
        made = {name.removeprefix(_MADE): data for name, data in outcome.files.items() if name.startswith(_MADE)}
        if not outcome.ok or not made:
            self._cold[row.name] = how(outcome)
            return plain
        for name, data in made.items():
            path = self.folder / row.name / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        for path in (self.folder, *self.folder.rglob("*")):  # whatever the umask: programs are another user's
            path.chmod(0o755 if path.is_dir() else 0o644)
        where = f"{self.shown}/{row.name}"
        return Toolchain(
            tuple(word.replace("{warm}", where) for word in row.warm.compile or row.compile or ()),
            {key: value.replace("{warm}", where) for key, value in {**row.env, **row.warm.env}.items()},
        )
