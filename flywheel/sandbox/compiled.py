"""What compilers made, kept by a hash of what they were given."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future

from flywheel.sandbox.job import MIB, Limits, Outcome

COMPILING = Limits(cpu=60.0, wall=90.0, memory=2048 * MIB, processes=128, output=1 * MIB, disk=256 * MIB)
"""What a compiler may use."""
Key = tuple[str, tuple[str, ...], tuple[tuple[str, bytes], ...]]
"""Language, command, sorted files."""


class CompileCache:
    """Outcomes of compilers, each program compiled once even when several threads want it."""

    def __init__(self, most: int = 512 * MIB) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Future[Outcome]] = OrderedDict()
        self._bytes = 0

    def get(self, key: Key, make: Callable[[], Outcome]) -> Outcome:
        """A key's outcome, made by the first who asks while others wait for it. An exception is not kept."""
        name = _digest(key)
        with self._lock:
            known = self._kept.get(name)
            if known is None:
                ours: Future[Outcome] = Future()
                self._kept[name] = ours
            else:
                self._kept.move_to_end(name)
        if known is not None:
            return known.result()
        try:
            outcome = make()
        except BaseException as error:
            with self._lock:
                self._kept.pop(name, None)
            ours.set_exception(error)
            raise
        ours.set_result(outcome)
        with self._lock:
            self._bytes += _size(outcome)
            while self._bytes > self._most and len(self._kept) > 1:
                self._drop_oldest()
        return outcome

    def _drop_oldest(self) -> None:
        name, oldest = next(iter(self._kept.items()))
        if not oldest.done():
            self._kept.move_to_end(name)
            return
        del self._kept[name]
        self._bytes -= _size(oldest.result())


def _size(outcome: Outcome) -> int:
    return 256 + len(outcome.stderr) + sum(map(len, outcome.files.values()))


def _digest(key: Key) -> str:
    name, command, files = key
    digest = hashlib.sha256()
    for part in (name.encode(), *(word.encode() for word in command), *(x for n, c in files for x in (n.encode(), c))):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()
