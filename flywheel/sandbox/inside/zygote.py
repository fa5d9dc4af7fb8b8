"""The warm interpreter that every program of a slot is forked from.

It runs inside bubblewrap and does as little as possible: it imports and warms what programs use, then, for each message
on its control socket, clones a child into new namespaces and passes it the descriptors that came with the message. It
never sees a program or its output, so nothing of one can be found in the memory of the next. The child
(``supervisor.py``) is the first process of the new PID namespace; when it ends, the kernel ends all others.

Messages: ``J`` with the descriptors of job, stdin, stdout, stderr and status: run; ``K``: kill what runs.
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

from flywheel.sandbox.inside import kernel, program, supervisor

CONTROL = 3
"""The control socket's descriptor."""
_PRELOAD = """
abc array ast bisect collections collections.abc contextlib copy dataclasses datetime decimal enum fractions functools
hashlib heapq inspect io itertools json linecache math operator os random re resource shutil signal site statistics
string struct sys threading time traceback types typing
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


def main(text: str) -> None:
    """Get ready, say so, and serve until the executor closes the socket."""
    settings = Settings(**json.loads(text))
    control = socket.socket(fileno=CONTROL)
    control.set_inheritable(False)
    try:
        _settle(settings)
        _warm(settings)
    except Exception as error:
        control.send(f"E{type(error).__name__}: {error}".encode()[:4000])
        sys.exit(1)
    control.send(b"R")
    late = bytes.fromhex(settings.seccomp_late)
    _serve(control, supervisor.Supervisor(settings.level, late, settings.readable, settings.scratch, settings.proc))


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
    kernel.set_dumpable(True)  # a change of user clears it, and then the children could not write their uid maps
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
    if settings.seccomp:
        kernel.no_new_privileges()
        kernel.filter_system_calls(bytes.fromhex(settings.seccomp))
    gc.collect()
    gc.disable()  # until a program begins
    gc.freeze()  # a collection in a child would otherwise touch, and so copy, every page


def _serve(control: socket.socket, supervise: supervisor.Supervisor) -> None:
    current = 0
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1, 5)
        if not message or message == b"K":
            if current:
                os.kill(current, signal.SIGKILL if supervise.contained else signal.SIGTERM)
            if not message:
                return
            continue
        if current:  # it has ended, or is about to; only then is the last of its processes gone
            os.waitpid(current, 0)
        current = supervise.start(control, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _run(settings: str) -> None:
    """``main``, below which the processes of programs come up again to run their code with nothing above it."""
    error: BaseException | None = None
    try:
        main(settings)
        return
    except supervisor.Run as run:
        code, namespace = run.code, run.namespace
    try:
        exec(code, namespace)
    except BaseException as raised:
        error = raised
    program.finish(error)


if __name__ == "__main__":
    _run(sys.argv[1])
