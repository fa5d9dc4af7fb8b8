"""Worker processes: one piece of heavy work each, started in milliseconds, gone without a trace.

Workers are forked from a forkserver that has preloaded the heavy libraries (and holds no CUDA
context). Each leads its own process group, writes to its own log, reports over a pipe, and does not
outlive its agent: when the agent dies, even by SIGKILL, the pipe from it closes and the kernel kills
the worker's whole group; the forkserver, which then has no client left, exits. When the forkserver
dies, the parent-death signal does the same to each worker.
"""

from __future__ import annotations

import ctypes
import fcntl
import importlib
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from flywheel.errors import DiskFull, FlywheelError, StageFailed

_PR_SET_PDEATHSIG = 1
_GRACE_SECONDS = 5.0
PRELOAD_ALSO = "FLYWHEEL_PRELOAD_ALSO"
_context = multiprocessing.get_context("forkserver")


def die_with_parent(sig: int = signal.SIGKILL) -> None:
    """Ask Linux to send this process a signal when its parent dies; elsewhere a no-op."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(sig))


def die_with_agent() -> None:
    """Have the kernel kill this process's group as soon as the agent that asked for it is gone.

    The parent of a worker is the forkserver, which lives as long as any worker holds its pipe: the
    parent-death signal alone would come too late. The agent's end of the sentinel pipe closes with the
    agent, so that is what must kill.
    """
    agent = multiprocessing.parent_process()
    if sys.platform != "linux" or agent is None:
        return
    fcntl.fcntl(agent.sentinel, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(agent.sentinel, fcntl.F_SETSIG, signal.SIGKILL)  # type: ignore[attr-defined]
    flags = fcntl.fcntl(agent.sentinel, fcntl.F_GETFL)
    fcntl.fcntl(agent.sentinel, fcntl.F_SETFL, flags | os.O_ASYNC)
    if not agent.is_alive():  # it died before the kernel was asked
        os.killpg(0, signal.SIGKILL)


def start_forkserver(preload: Iterable[str], also: Iterable[str] = ()) -> None:
    """Start importing the heavy modules now, in the background, so that the first worker need not wait.

    Args:
        preload: modules to import.
        also: what ``flywheel.stages.preload`` is to import besides its own, for this run.
    """
    os.environ[PRELOAD_ALSO] = " ".join(also)
    # Without this, asking torch whether CUDA exists would create driver state that does not survive a fork.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    # Spinning OpenMP threads stall each other for whole scheduler slices as soon as another process wants
    # the core (10x slower on small models, docs/lab-notes.md); sleeping ones do not.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # TRL would report every trainer that is made, and wait for the network.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # Unset, Rust tokenizers warn at every fork after use; workers fork before it, so threads are safe.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    _context.set_forkserver_preload(list(preload))
    forkserver.ensure_running()


class Report:
    """A worker's line to its agent."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __call__(self, kind: str, **values: Any) -> None:
        """Send a message such as ``report("progress", done=3, total=64)``."""
        with suppress(BrokenPipeError):  # the agent is going away, and this worker with it
            self._connection.send((kind, values))

    def span(self, phase: str) -> _Span:
        """Time a phase: ``with report.span("load"): …``; it becomes a row of the run's timeline."""
        return _Span(self, phase)


class _Span:
    def __init__(self, report: Report, phase: str) -> None:
        self._report, self._phase = report, phase

    def __enter__(self) -> None:
        self._start = time.time()

    def __exit__(self, *_: object) -> None:
        self._report("span", phase=self._phase, start=self._start, end=time.time())


@dataclass
class Worker:
    """A running worker, as its agent sees it.

    Attributes:
        name: such as "round 2 sft".
        log: where its standard output and error go.
        result: what its function returned, once it has.
    """

    name: str
    log: Path
    process: Any
    connection: Connection
    on_message: Callable[[str, dict[str, Any]], None]
    result: Any = None
    error: FlywheelError | None = None
    finished: bool = False

    def read(self) -> None:
        """Take all waiting messages."""
        try:
            while self.connection.poll():
                kind, values = self.connection.recv()
                if kind == "result":
                    self.result = values["value"]
                elif kind == "error":
                    self.error = values["error"]
                else:
                    self.on_message(kind, values)
        except (EOFError, ConnectionResetError):
            pass

    def stop(self) -> None:
        """End the worker and its whole process group: SIGTERM, a moment, SIGKILL, reap."""
        for sig, patience in ((signal.SIGTERM, _GRACE_SECONDS), (signal.SIGKILL, None)):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, sig)
            self.process.join(patience)
        self.connection.close()


def spawn(
    target: str,
    payload: dict[str, Any],
    *,
    name: str,
    log: Path,
    env: dict[str, str | None] | None = None,
    on_message: Callable[[str, dict[str, Any]], None] = lambda kind, values: None,
) -> Worker:
    """Start ``module:function(payload, report)`` in a fresh process.

    Args:
        target: the function, as ``package.module:name``; it gets the payload and a ``Report``.
        payload: plain data.
        name: for messages.
        log: the worker's own log file, appended to.
        env: variables to set (or, with None, to remove) before the function runs.
        on_message: called in the agent with each message of the worker.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    ours, theirs = _context.Pipe(duplex=False)
    spawned = time.time()
    process = _context.Process(
        target=_main, args=(target, payload, str(log), env or {}, theirs, spawned), name=name, daemon=False
    )
    process.start()
    theirs.close()
    return Worker(name=name, log=log, process=process, connection=ours, on_message=on_message)


def _main(
    target: str, payload: dict[str, Any], log: str, env: dict[str, str | None], connection: Connection, spawned: float
) -> None:
    die_with_parent()
    os.setsid()
    die_with_agent()
    if sys.platform == "linux":
        # A forkserver's child would start processes by a forkserver of its own: a DataLoader's workers would import
        # torch and TRL anew, every epoch.
        multiprocessing.set_start_method("fork", force=True)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the agent's to handle
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for key, value in env.items():
        if value is None:
            os.environ.pop(key, None)
        else:
            os.environ[key] = value
    report = Report(connection)
    report("span", phase="spawn", start=spawned, end=time.time())
    module, _, function = target.partition(":")
    code = 0
    try:
        _log_to(log)
        value = getattr(importlib.import_module(module), function)(payload, report)
        report("result", value=value)
    except BaseException as error:
        with suppress(OSError):  # the log's disk may be full
            traceback.print_exc()
        if isinstance(error, FlywheelError):
            report("error", error=error)
        elif DiskFull.caused(error, Path(log).parent):
            report("error", error=DiskFull.of(Path(log).parent))
        else:
            code = 1
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    connection.close()
    # Interpreter teardown of the heavy libraries takes seconds and has nothing left to do for us.
    os._exit(code)


def _log_to(log: str) -> None:
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)


def run_all(workers: list[Worker], tick: Callable[[], None] = lambda: None, poll: float = 0.25) -> list[Any]:
    """Wait for all workers; if one fails, or anything interrupts the wait, stop them all.

    Args:
        workers: as spawned.
        tick: called at least every ``poll`` seconds; may raise, for example because a peer is gone.

    Returns:
        Each worker's result.

    Raises:
        FlywheelError: as a worker raised it.
        StageFailed: a worker died; names it, its log and the log's last lines.
    """
    try:
        while running := [w for w in workers if not w.finished]:
            wait([w.process.sentinel for w in running] + [w.connection for w in running], timeout=poll)
            for worker in running:
                ended = worker.process.exitcode is not None
                worker.read()
                if ended:
                    _finish(worker)
            tick()
        return [w.result for w in workers]
    finally:
        for worker in workers:
            worker.stop()


def _finish(worker: Worker) -> None:
    worker.finished = True
    if worker.error is not None:
        raise worker.error
    code = worker.process.exitcode
    if code != 0:
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
        raise StageFailed(f"{worker.name} {how}\n{tail(worker.log)}", hint=f"the whole log: {worker.log}")


def stop_all() -> None:
    """End every worker of this process, also those that were being started when an error struck."""
    for process in multiprocessing.active_children():
        assert process.pid
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()  # it may not lead its group yet
        process.join()


def tail(log: Path, lines: int = 12) -> str:
    """The last lines of a log, indented."""
    text = log.read_text(errors="replace").splitlines()[-lines:] if log.exists() else []
    return "\n".join(f"    {line}" for line in text)
