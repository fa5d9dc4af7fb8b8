"""The warm interpreter that every program of a slot is forked from.

It runs inside bubblewrap and does as little as possible: it imports and warms what programs use, then starts one for
each message on its control socket (``supervisor.py``), with the descriptors that came with the message. It never sees a
program or its output, so nothing of one can be found in the memory of the next.

Messages: ``J`` with the descriptors of job, stdin, stdout, stderr and status: run (then whether files come back, bytes
of the work folder, and how many files); ``K``: kill what runs.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import site
import socket
import sys
from dataclasses import dataclass

from flywheel.sandbox.inside import kernel, program, scene, supervisor

CONTROL = 3
"""The control socket's descriptor."""
_PRELOAD = """
abc ast bisect collections collections.abc contextlib copy dataclasses datetime enum functools hashlib heapq inspect io
itertools json linecache math operator os random re resource select signal site string struct sys threading time
traceback types typing
"""
"""What most programs import. What few do would cost all of them: a fork's price is what the interpreter has loaded."""
_DRIVERS = ("test_driver.py", "call_driver.py")
_WARM_UP = """
import json, re, math, collections, itertools, functools
def check(values: list[int]) -> dict:
    found = collections.Counter(str(v) for v in values if re.match("[0-9]+", f"{v:03d}"))
    try:
        assert sorted(found, key=len, reverse=True) == [], "no"
    except AssertionError as error:
        return json.loads(json.dumps({"error": str(error), "at": math.sqrt(2.0), "n": sum(map(len, found))}))
class Point:
    def __init__(self, x=0): self.x = x
    def __eq__(self, other): return self.x == other.x
assert check(list(range(30)))["error"] == "no" and Point(1) == Point(1)
"""


@dataclass(frozen=True)
class Settings:
    """What the executor says at the start, as JSON: see ``isolation.py``."""

    level: str
    uid: int | None
    mount_proc: bool
    seccomp: str
    seccomp_late: str
    preload: list[str]
    path: list[str]
    readable: list[str]
    scratch: str
    proc: bool


def main(text: str) -> supervisor.Supervisor:
    """Get ready, and say so."""
    settings = Settings(**json.loads(text))
    control = socket.socket(fileno=CONTROL)
    control.set_inheritable(False)
    where = scene.Scene(
        contained=settings.level == "namespaces",
        seccomp=bytes.fromhex(settings.seccomp_late),
        readable=settings.readable,
        scratch=settings.scratch,
        proc=settings.proc,
    )
    try:
        _settle(settings)
        where.prepare()
        _warm(settings)
        supervise = supervisor.Supervisor(where, control)
    except Exception as error:
        control.send(f"E{type(error).__name__}: {error}".encode()[:4000])
        sys.exit(1)
    control.send(b"R")
    return supervise


def _settle(settings: Settings) -> None:
    """Give up what is only needed now: root's rights, and descriptors."""
    if settings.mount_proc:
        kernel.mount("proc", "/proc", "proc", kernel.NOSUID | kernel.NODEV | kernel.NOEXEC)
    if settings.uid is not None:
        os.setgroups([])
        os.setresgid(settings.uid, settings.uid, settings.uid)
        os.setresuid(settings.uid, settings.uid, settings.uid)
    if settings.level == "landlock":
        kernel.drop_capabilities()
    os.closerange(CONTROL + 1, 1 << 16)
    os.umask(0o022)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # or the first process of a PID namespace would not be immune to it


def _warm(settings: Settings) -> None:
    here = str(os.environ.pop("PYTHONPATH", ""))
    sys.path[:] = [p for p in sys.path if p and p != here] + [p for p in settings.path if p not in sys.path]
    if settings.path:
        os.environ["PYTHONPATH"] = os.pathsep.join(settings.path)
    for name in [*_PRELOAD.split(), *settings.preload]:
        importlib.import_module(name)
    site.setquit()  # what the interpreter does where it is not told to start quickly
    site.setcopyright()
    site.sethelper()
    for driver in _DRIVERS:
        with open(f"{os.path.dirname(__file__)}/{driver}", "rb") as file:  # noqa: PTH120, PTH123
            source = file.read()
        program.COMPILED[source] = compile(source, driver, "exec", dont_inherit=True, optimize=0)
    for _ in range(3):
        exec(compile(_WARM_UP, "warm-up", "exec"), {"__name__": "warm-up"})
    kernel.no_new_privileges()
    if settings.seccomp:
        kernel.filter_system_calls(bytes.fromhex(settings.seccomp))
    program.furnish()
    gc.collect()
    gc.disable()  # until a program begins
    gc.freeze()  # a collection in a child would otherwise touch, and so copy, every page


def _run(settings: str) -> None:
    """Serve until the executor closes the socket; the processes of programs leave to run their code at the end.

    Above a program's code there is then nothing but this frame.
    """
    supervise = main(settings)
    while supervise.next():
        child = kernel.fork()
        if child == 0:
            code, namespace = supervise.become()
            break
        supervise.attend(child)
    else:
        return
    del supervise, settings, child
    error: BaseException | None = None
    try:
        exec(code, namespace)
    except BaseException as raised:
        error = raised
    program.finish(error)


if __name__ == "__main__":
    _run(sys.argv[1])
