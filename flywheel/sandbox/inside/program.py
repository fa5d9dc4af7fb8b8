"""A Python program, run in a process that was forked from a warm interpreter as if it had been started by itself."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # signal looks names up: in a new process 70 page faults
import _thread
import atexit
import builtins
import gc
import io
import os
import signal
import sys
import threading
import time
import types
from typing import Any, NoReturn

COMPILED: dict[bytes, types.CodeType] = {}
"""Code of sources that come again and again: the drivers of tests and calls."""


def furnish() -> None:
    """In the warm interpreter: what every program needs and none has yet changed, for all that are forked from it."""
    ends = os.pipe()  # what the streams of programs are: a stream asks when it is made whether it can seek
    before = [os.dup(fd) for fd in range(3)]
    for fd, end in enumerate((ends[0], ends[1], ends[1])):
        os.dup2(end, fd)
    sys.stdin = sys.__stdin__ = _stream(0, "r", "<stdin>")  # type: ignore[misc]
    sys.stdout = sys.__stdout__ = _stream(1, "w", "<stdout>")  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _stream(2, "w", "<stderr>")  # type: ignore[misc]
    for fd, was in enumerate(before):
        os.dup2(was, fd)
    for descriptor in (*ends, *before):
        os.close(descriptor)
    main = types.ModuleType("__main__")
    main.__dict__.update(__builtins__=builtins, __cached__=None, __annotations__={})
    sys.modules["__main__"] = main


def prepare(
    entry: str, files: list[tuple[str, bytes, int]], argv: list[str], clock: float | None
) -> tuple[types.CodeType | None, dict[str, Any]]:
    """Make ``sys`` and ``__main__`` what a fresh interpreter would have.

    Args:
        entry: the program's file, in the current folder.
        files: names, contents and modes of what is there.
        argv: the program's arguments.
        clock: what its clock starts from; None is the real time.

    Returns:
        The program's code, and the namespace that it runs in; None if it does not compile (which was said on stderr).
    """
    _signal.signal(signal.SIGINT, _signal.default_int_handler)
    folder = os.getcwd()  # noqa: PTH109
    sys.argv = [entry, *argv]
    sys.path.insert(0, folder)
    path = f"{folder}/{entry}"
    main = sys.modules["__main__"].__dict__
    main["__file__"] = path
    if "numpy" in sys.modules:  # its old global generator is not reseeded by a fork; random's is
        sys.modules["numpy"].random.seed()
    if clock is not None:
        start_clock(clock)
    sources = [content for name, content, _ in files if name == entry]
    if not sources:
        print(f"can't open file {path!r}: [Errno 2] No such file or directory", file=sys.stderr)
        return None, {}
    try:
        code = COMPILED.get(sources[0]) or compile(sources[0], path, "exec", dont_inherit=True, optimize=0)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        kind, error, _ = sys.exc_info()
        sys.excepthook(kind, error, None)  # type: ignore[arg-type]
        return None, {}
    gc.freeze()  # as far as its collector knows, the program starts with nothing
    gc.enable()
    return code, main


def _stream(fd: int, mode: str, name: str) -> io.TextIOWrapper:
    raw = io.FileIO(fd, mode, closefd=False)
    raw.name = name  # type: ignore[assignment]
    buffer: Any = io.BufferedReader(raw) if mode == "r" else io.BufferedWriter(raw)
    errors = "backslashreplace" if fd == 2 else "surrogateescape"
    stream = io.TextIOWrapper(buffer, encoding="utf-8", errors=errors, line_buffering=fd == 2)
    stream.mode = mode  # type: ignore[misc]
    return stream


def finish(error: BaseException | None) -> NoReturn:
    """End as the interpreter would: report the error, wait for threads, run atexit's functions, flush, exit."""
    code = 0
    if isinstance(error, SystemExit):
        code = _exit_code(error)
    elif error is not None:
        code = 1
        trace = error.__traceback__
        inner = trace.tb_next if trace is not None else None  # without the frame that runs the program
        sys.excepthook(type(error), error.with_traceback(inner), inner)
    try:
        if _thread._count():  # type: ignore[attr-defined]
            threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
    try:
        if sys.stdout is not None and not sys.stdout.closed:
            sys.stdout.flush()
    except Exception:
        code = 120  # what Python itself exits with
    try:
        if sys.stderr is not None and not sys.stderr.closed:
            sys.stderr.flush()
    except Exception:
        code = code or 120
    os._exit(code)


def _exit_code(error: SystemExit) -> int:
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    print(error.code, file=sys.stderr)
    return 1


def start_clock(epoch: float) -> None:
    """Let the wall clock start at ``epoch``: ``time`` and ``datetime`` agree, monotonic clocks go on as they are."""
    import ctypes
    import datetime

    shift = round((epoch - time.time()) * 1e9)
    now_ns, localtime, gmtime, ctime, strftime = time.time_ns, time.localtime, time.gmtime, time.ctime, time.strftime

    def seconds() -> float:
        return (now_ns() + shift) / 1e9

    changed: dict[str, Any] = {
        "time": seconds,
        "time_ns": lambda: now_ns() + shift,
        "localtime": lambda secs=None: localtime(seconds() if secs is None else secs),
        "gmtime": lambda secs=None: gmtime(seconds() if secs is None else secs),
        "ctime": lambda secs=None: ctime(seconds() if secs is None else secs),
        "strftime": lambda form, t=None: strftime(form, localtime(seconds()) if t is None else t),
    }
    for name, function in changed.items():
        setattr(time, name, function)
    # datetime is written in C and asks the system; its other constructors ask time.time.
    methods: Any = gc.get_referents(datetime.datetime.__dict__)[0]
    methods["now"] = classmethod(lambda cls, tz=None: cls.fromtimestamp(seconds(), tz))
    methods["utcnow"] = classmethod(lambda cls: cls.utcfromtimestamp(seconds()))
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(datetime.datetime))
