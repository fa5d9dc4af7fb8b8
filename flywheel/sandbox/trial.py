"""A language is tried before its first program: where its compiler or interpreter does not work, nothing is "wrong".

That ``javac`` is installed does not say that it runs: it may lack a library, a file in ``/etc``, a ``/proc``. Each
program would then fail to compile, and be taken for wrong.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from flywheel.sandbox.diagnosis import how
from flywheel.sandbox.job import Job, Outcome
from flywheel.sandbox.languages import entry_of, language
from flywheel.sandbox.pool import SandboxFailed

_ANSWER = b"42"


def trial(name: str) -> Job:
    """The program that a language is tried with."""
    row = language(name)
    entry = entry_of(row.name, row.trial)
    return Job(row.name, {entry: row.trial.encode()}, entry)


class Trials:
    """What is known of an executor's languages. Safe to use from several threads."""

    def __init__(self) -> None:
        self._works: set[str] = set()
        self._fails: dict[str, str] = {}
        self._locks: dict[str, threading.Lock] = {}

    def require(self, name: str, run: Callable[[Job], Outcome]) -> None:
        """Try a language, if nobody has.

        Args:
            name: of the language.
            run: runs a job with one case.

        Raises:
            SandboxFailed: its programs cannot be run here; says how the trial ended.
        """
        row = language(name)
        if row.name in self._works:  # of nearly all programs
            return
        with self._locks.setdefault(row.name, threading.Lock()):
            if row.name in self._works:  # by now
                return
            if row.name not in self._fails:
                outcome = run(trial(row.name))
                if outcome.ok and outcome.stdout.strip() == _ANSWER:
                    self._works.add(row.name)
                    return
                why = f"{row.name} does not work here: a trial program {how(outcome)}"
                if outcome.status not in ("exited", "signaled", "compile_error"):
                    raise SandboxFailed(why)  # a busy machine may do better the next time
                self._fails[row.name] = why
        raise SandboxFailed(self._fails[row.name])
