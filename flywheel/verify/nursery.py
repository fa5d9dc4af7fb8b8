"""A small process that forks a pool's workers: they start in milliseconds, and die with it, and it with its owner.

It imports what the workers need once. The owner asks it, over a socket, for a worker (and hands it the worker's end of
a new socket) or for a worker's end. As the workers' parent it is the one that may kill and must reap them: a process
id that it has not reaped cannot have become another process's.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, NoReturn

from flywheel.workers import die_with_parent

SPAWN, KILL = b"s", b"k"
_DEEPEST = 20_000
"""Recursion limit: past it the stack ends, and the worker; a swallowed RecursionError would look like an answer."""


def main(control_fd: int, target: str, memory: int) -> None:
    """Serve until the owner is gone.

    Args:
        control_fd: the socket to the owner.
        target: ``module:function`` that workers call with each item; a ``warm_up`` of the module is called first.
        memory: bytes that a worker may allocate.
    """
    owner = os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the owner's to handle
    control = socket.socket(fileno=control_fd)
    try:
        module, _, name = target.partition(":")
        loaded = importlib.import_module(module)
        getattr(loaded, "warm_up", lambda: None)()
    except BaseException as error:
        control.send(
            json.dumps({"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}).encode()
        )
        return
    _be_quiet()
    gc.freeze()  # what was loaded stays, and is shared by the workers
    gc.set_threshold(20_000, 20, 20)
    control.send(b"{}")
    while True:
        if not select.select([control], [], [], 1.0)[0]:
            if os.getppid() != owner:
                return
            continue
        message, fds, _, _ = socket.recv_fds(control, 64, 1)
        if not message:
            return
        if message.startswith(SPAWN):
            control.send(str(_spawn(control, fds[0], getattr(loaded, name), memory)).encode())
        else:
            control.send(_kill(int(message[1:])).encode())


def _spawn(control: socket.socket, fd: int, function: Callable[[Any], Any], memory: int) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid:
        os.close(fd)
        return pid
    control.close()
    die_with_parent()
    if os.getppid() != parent:
        os._exit(1)
    return _work(Connection(fd), function, memory)


def _kill(pid: int) -> str:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return str(os.waitstatus_to_exitcode(status))


def _be_quiet() -> None:
    """Parsers write what they think of an answer to the standard streams."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for fd in (1, 2):
        os.dup2(nowhere, fd)
    os.close(nowhere)


class _TimeUp(BaseException):
    """Not an Exception, so that ``except Exception`` in a library cannot swallow it."""


def _expire(*_: object) -> NoReturn:
    raise _TimeUp


def _work(connection: Connection, function: Callable[[Any], Any], memory: int) -> NoReturn:
    """Answer items until the owner closes the connection."""
    _limit_memory(memory)
    sys.setrecursionlimit(_DEEPEST)
    signal.signal(signal.SIGALRM, _expire)
    began = _peak()
    with suppress(EOFError, OSError):
        while True:
            limit, item = json.loads(connection.recv_bytes())
            answer = _answer(function, item, limit)
            # A MemoryError may have been swallowed on the way; the peak tells. Such a worker is not used again.
            grown = _peak() - began > memory // 4
            if grown and "failure" not in answer:
                answer["grown"] = True
            connection.send_bytes(json.dumps({**answer, "last": grown}).encode())
            if grown:
                break
    os._exit(0)


def _answer(function: Callable[[Any], Any], item: Any, limit: float) -> dict[str, Any]:
    try:
        signal.setitimer(signal.ITIMER_REAL, limit)
        try:
            return {"value": function(item)}
        except MemoryError:
            return {"failure": "memory"}
        except Exception as error:
            return {"failure": f"{type(error).__name__}: {error}"[:300]}
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except _TimeUp:
        return {"failure": "timeout"}


def _limit_memory(memory: int) -> None:
    with open("/proc/self/statm") if sys.platform == "linux" else open(os.devnull) as file:  # noqa: PTH123
        pages = file.read().split()
    used = int(pages[0]) * resource.getpagesize() if pages else 0
    resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
