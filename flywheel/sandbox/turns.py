"""So many programs at once on this machine, whichever process runs them.

A node has a sampler per GPU and several verifiers, each with a sandbox of its own. If each ran as many programs as
there are cores, programs would meet their wall limits waiting for one another. A turn is a locked byte of a file that
the processes of one user share: the kernel gives it back, whatever happens to who had it.
"""

from __future__ import annotations

import fcntl
import os
import struct
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from flywheel.errors import UserError

_LONGEST_PAUSE = 0.05
_PATIENCE = 120.0
"""Seconds without a turn after which one goes without: who holds them all is stopped, and not busy."""
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class Turns:
    """Who has one may run a program.

    Args:
        places: numbers of the turns that this process may have: of its cores, so that others may have others.

    Raises:
        UserError: the file is somebody else's.
    """

    def __init__(self, places: Iterable[int]) -> None:
        # The temporary folder may be on a network: a turn is one of this machine.
        self.file = Path(tempfile.gettempdir()) / f"flywheel-turns-{os.getuid()}-{_BOOT.read_text()[:8]}"
        self._descriptor = self._open()
        self._free = deque(places)
        self._asking = threading.Lock()
        self._patience = _PATIENCE

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a turn, and have it."""
        with self._asking:  # one thread asks for all that wait
            place = self._next()
        if place is None:
            yield
            return
        try:
            yield
        finally:
            self._lock(fcntl.F_UNLCK, place)
            self._free.append(place)

    def close(self) -> None:
        """Give up the file, and remove it if nobody else has it."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self.file.stat().st_ino == os.fstat(self._descriptor).st_ino:
                self.file.unlink()
        except (BlockingIOError, FileNotFoundError):
            pass  # others use it, or somebody tidied up
        os.close(self._descriptor)

    def _open(self) -> int:
        """The file, with a lock that keeps others from removing it."""
        while True:
            try:
                descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            except OSError as error:
                hint = "set TMPDIR to a folder of your own"
                raise UserError(f"{self.file} cannot be opened: {error.strerror}", hint=hint) from error
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            if os.fstat(descriptor).st_nlink:
                return descriptor
            os.close(descriptor)  # it was removed in between

    def _next(self) -> int | None:
        pause = 0.001
        deadline = time.monotonic() + self._patience
        while True:
            for _ in range(len(self._free)):
                place = self._free.popleft()
                try:
                    self._lock(fcntl.F_WRLCK, place)
                    self._patience = _PATIENCE
                    return place
                except BlockingIOError:
                    self._free.append(place)
            if time.monotonic() >= deadline:
                self._patience = 0.0  # nobody waits for them again until one is free
                return None
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _lock(self, kind: int, place: int) -> None:
        # Of the open file, not of the process: two executors of one process have turns of their own.
        fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, place, 1, 0))
