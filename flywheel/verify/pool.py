"""Worker processes for calls that may hang, crash or eat all memory: each costs its own time limit and nothing else.

One thread of the owner hands items to the workers, so any thread may ask, and several at once. A worker that does not
come back in time is killed and replaced; the items that waited behind it go to another. All processes end with
``close``, and with the owner however it dies (``nursery.py``).
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import flywheel
from flywheel.errors import UserError
from flywheel.verify.nursery import KILL, SPAWN

_GRACE = 0.5
"""Seconds past the limit after which a worker that does not stop by itself is killed."""
_AHEAD = 16
"""Items sent ahead to a busy worker at most, so that it need not wait for the next."""
_AHEAD_BYTES = 16_384
"""… and their size together: what a pipe takes without the reader's help."""
_CRASHES = 2
"""Workers that an item may take with it before it is given up."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an item.

    Attributes:
        value: what the function returned; None if it did not.
        failure: "timeout", "memory", "crash" or the error that it raised; None if it returned.
        grown: it returned, but took so much memory that what it returned may rest on a failed allocation.
    """

    value: Any = None
    failure: str | None = None
    grown: bool = False


@dataclass(slots=True)
class _Item:
    message: bytes
    limit: float
    future: Future[Outcome]
    crashes: int = 0


@dataclass(slots=True)
class _Worker:
    pid: int
    connection: Connection
    items: deque[_Item] = field(default_factory=deque)
    since: float = 0.0

    @property
    def due(self) -> float:
        """When the item at work must be done."""
        return self.since + self.items[0].limit + _GRACE if self.items else float("inf")


class Pool:
    """Calls of one function in worker processes.

    Nothing is started before the first call.

    Args:
        target: ``package.module:function``, called with one JSON value, returning one.
        workers: how many processes; None is one per CPU that this process may use.
        memory: bytes that a call may allocate.
        extra: the extra of flywheel whose packages the module needs, for the message if they are missing.
    """

    def __init__(self, target: str, workers: int | None = None, memory: int = 2**30, extra: str | None = None) -> None:
        self.workers = workers or len(os.sched_getaffinity(0))
        self._target, self._memory, self._extra = target, memory, extra
        self._lock = threading.Lock()
        self._dispatcher: _Dispatcher | None = None

    def run(self, items: Iterable[Any], limit: float) -> list[Outcome]:
        """The outcome of each item, in order; from any thread.

        Args:
            items: JSON values.
            limit: seconds for each item.

        Raises:
            UserError: a package that the function needs is not installed.
        """
        futures = self.submit(items, limit)
        return [future.result() for future in futures]

    def submit(self, items: Iterable[Any], limit: float) -> Sequence[Future[Outcome]]:
        """As ``run``, without waiting."""
        made = [_Item(json.dumps([limit, item]).encode(), limit, Future()) for item in items]
        if made:
            with self._lock:
                if self._dispatcher is None or not self._dispatcher.usable():
                    self._dispatcher = _Dispatcher(self._target, self.workers, self._memory, self._extra)
                self._dispatcher.add(made)
        return [item.future for item in made]

    def close(self) -> None:
        """End all processes; what is still asked for ends as "closed". The next call starts them anew."""
        with self._lock:
            if self._dispatcher is not None:
                self._dispatcher.close()
            self._dispatcher = None


class _Dispatcher:
    """The owner's side: a nursery, its workers, and the thread that feeds them."""

    def __init__(self, target: str, workers: int, memory: int, extra: str | None) -> None:
        self._owner, self._count = os.getpid(), workers
        self._nursery = _Nursery(target, memory, extra)
        self._queue: deque[_Item] = deque()
        self._workers: list[_Worker] = []
        self._wake, self._bell = (Connection(fd) for fd in _pair())
        self._closing = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._serve, name="flywheel-pool", daemon=True)
        self._thread.start()

    def usable(self) -> bool:
        """False after a fork: the thread lives in the parent only."""
        return self._owner == os.getpid() and self._thread.is_alive() and not self._closing

    def add(self, items: list[_Item]) -> None:
        with self._lock:
            self._queue.extend(items)
        self._ring()

    def close(self) -> None:
        if self._owner != os.getpid():
            return
        self._closing = True
        with suppress(OSError):
            self._ring()
        self._thread.join()

    def _ring(self) -> None:
        self._bell.send_bytes(b".")

    def _serve(self) -> None:
        try:
            while not self._closing:
                self._feed()
                self._await()
        except BaseException as error:
            self._fail(error)
        finally:
            self._closing = True
            self._fail(None)
            for worker in self._workers:
                worker.connection.close()
            self._nursery.close()

    def _fail(self, error: BaseException | None) -> None:
        """Nobody may wait for an answer that will not come."""
        left = [item for worker in self._workers for item in worker.items] + list(self._queue)
        for item in left:
            if not item.future.done():
                if error is None:
                    item.future.set_result(Outcome(failure="closed"))
                else:
                    item.future.set_exception(error)

    def _feed(self) -> None:
        """Hand out what waits: to idle workers first, then a little ahead to the others."""
        with self._lock:
            waiting = len(self._queue)
        while len(self._workers) < min(self._count, waiting + sum(bool(w.items) for w in self._workers)):
            self._workers.append(self._nursery.spawn())
        # Towards the end one at a time, or one worker has a queue while another has nothing to do.
        for depth in range(1, max(1, min(_AHEAD, waiting // (4 * self._count))) + 1):
            for worker in self._workers:
                if len(worker.items) < depth and not self._give(worker):
                    return

    def _give(self, worker: _Worker) -> bool:
        """Send a worker the next item; False if there is none."""
        with self._lock:
            if not self._queue:
                return False
            item = self._queue[0]
            # What the pipe cannot take would make this thread wait for a worker that may never read again.
            if worker.items and sum(len(i.message) for i in worker.items) + len(item.message) > _AHEAD_BYTES:
                return True
            self._queue.popleft()
        if not worker.items:
            worker.since = time.monotonic()
        worker.items.append(item)
        with suppress(OSError):  # it is dead: its end of file is read next
            worker.connection.send_bytes(item.message)
        return True

    def _await(self) -> None:
        due = min((worker.due for worker in self._workers), default=float("inf"))
        timeout = None if due == float("inf") else max(0.0, due - time.monotonic())
        ready = wait([self._wake, *(worker.connection for worker in self._workers)], timeout)
        if self._wake in ready:
            while self._wake.poll():
                self._wake.recv_bytes()
        for worker in [w for w in self._workers if w.connection in ready]:
            self._read(worker)
        for worker in [w for w in self._workers if w.due <= time.monotonic()]:
            self._settle(worker, Outcome(failure="timeout"))
            self._lose(worker)

    def _read(self, worker: _Worker) -> None:
        """Take the answers that are there."""
        try:
            while worker.connection.poll():
                told = json.loads(worker.connection.recv_bytes())
                self._settle(worker, Outcome(told.get("value"), told.get("failure"), told.get("grown", False)))
                if told["last"]:
                    return self._lose(worker)
        except (EOFError, OSError, ValueError):
            self._crashed(worker)

    def _crashed(self, worker: _Worker) -> None:
        if worker.items:
            item = worker.items[0]
            item.crashes += 1
            if item.crashes >= _CRASHES:
                self._settle(worker, Outcome(failure="crash"))
        self._lose(worker)

    def _settle(self, worker: _Worker, outcome: Outcome) -> None:
        item = worker.items.popleft()
        worker.since = time.monotonic()
        item.future.set_result(outcome)

    def _lose(self, worker: _Worker) -> None:
        """End a worker; what waited behind its item is next in line."""
        self._workers.remove(worker)
        worker.connection.close()
        self._nursery.kill(worker.pid)
        with self._lock:
            self._queue.extendleft(reversed(worker.items))


class _Nursery:
    """The process that forks workers, as its owner sees it."""

    def __init__(self, target: str, memory: int, extra: str | None) -> None:
        self._control, theirs = socket.socketpair()
        path = [str(Path(flywheel.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        command = [sys.executable, "-P", "-m", "flywheel.verify.nursery", str(theirs.fileno()), target, str(memory)]
        with theirs:
            self._process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
            )
        told = self._control.recv(65536)
        ready = json.loads(told) if told else {"error": "it died while it started", "trace": ""}
        if "error" in ready:
            self.close()
            _refuse(ready, target, extra)

    def spawn(self) -> _Worker:
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._control, [SPAWN], [theirs.fileno()])
            pid = int(self._reply())
        return _Worker(pid, Connection(ours.detach()))

    def kill(self, pid: int) -> None:
        self._control.send(KILL + str(pid).encode())
        self._reply()

    def close(self) -> None:
        self._control.close()
        self._process.wait()

    def _reply(self) -> bytes:
        reply = self._control.recv(64)
        if not reply:
            raise RuntimeError("the process that starts verifier workers is gone")
        return reply


def _refuse(ready: dict[str, Any], target: str, extra: str | None) -> None:
    if ready["error"].startswith("ModuleNotFoundError") and extra is not None:
        raise UserError(f"{target} cannot be used: {ready['error']}", hint=f"pip install 'flywheel[{extra}]'")
    raise RuntimeError(f"workers for {target} cannot be started: {ready['error']}\n{ready['trace']}")


def _pair() -> tuple[int, int]:
    one, two = socket.socketpair()
    return one.detach(), two.detach()
