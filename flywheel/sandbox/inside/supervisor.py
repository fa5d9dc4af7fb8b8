"""Starts a program in namespaces of its own, waits for it, ends what it left behind, and tells how it ended.

All but the program's process is the zygote itself, which has neither the program nor what it writes in its memory. A
program costs what its process touches for the first time after the fork, at some 2.5 µs per page: so whatever can be
set before the fork, and be taken back after it, is.

The first process of the program's PID namespace only waits to be killed: with it the kernel ends everything in there.
Nothing inside can signal or trace it.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # the signal module looks names up at each call
import marshal
import os
import random
import select
import signal
import socket
import time
import types
from dataclasses import dataclass
from typing import Any

from flywheel.sandbox.inside import collect, kernel, program, scene


@dataclass
class _Order:
    """What is to run, as far as the zygote may know it: its descriptors and sizes, and whether files come back.

    And while it runs: the first process of its PID namespace, or without namespaces its guard.
    """

    job: int
    streams: list[int]
    status: int
    size: int
    fetch: bool
    disk: int
    first: int | None = None
    guard: int | None = None
    begun: float = 0.0


class Supervisor:
    """Runs programs, one at a time: ``next``, a fork, then ``become`` in the child and ``attend`` in the parent."""

    def __init__(self, where: scene.Scene, control: socket.socket) -> None:
        """
        Args:
            where: how their scene is set.
            control: the socket to the executor; any message that comes while a program runs ends it.
        """
        self._scene, self._control = where, control
        self._own_pids = os.open("/proc/self/ns/pid", os.O_RDONLY) if where.contained else -1
        self._own_streams = [os.dup(fd) for fd in range(3)]
        self._proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY)  # a program's own will be mounted over it
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)
        self._order = _Order(-1, [], -1, 0, False, 0)

    def next(self) -> bool:
        """Wait for the next program, and set its scene as far as can be done before the fork; False at the end."""
        while True:
            message, descriptors, _, _ = socket.recv_fds(self._control, 100, 5, socket.MSG_CMSG_CLOEXEC)
            if not message:
                return False
            if message == b"K":
                continue  # the program has ended by itself
            size, fetch, disk, most = (int(word) for word in message[1:].split())
            job, *streams, status = descriptors
            self._order = _Order(job, streams, status, size, bool(fetch), disk)
            try:
                if self._scene.contained:
                    self._scene.set_up(disk, most)
                    self._order.first = self._first()
            except OSError as error:
                _tell(status, {"error": f"{type(error).__name__}: {error}"})
                self._leave()
                continue
            for fd, stream in enumerate(streams):
                os.dup2(stream, fd)
            random.seed()
            self._order.begun = time.monotonic()
            return True

    def become(self) -> tuple[types.CodeType, dict[str, Any]]:
        """In the child: be the program's process, with nothing in it that is not the program's own.

        Returns:
            What is to be run, and its namespace. Does not return for what is executed.
        """
        order = self._order
        try:
            os.setpgid(0, 0)  # a group of its own to signal; a session of its own would cost a scheduling group
            self._scene.enter()
            files, entry, args, argv, environment, clock, rlimits, *_ = _job(order)
            scene.write_files(files)
            self._scene.confine(rlimits)
            if environment:
                os.environ.update(environment)
            if argv is not None:
                scene.execute(argv)
            code, namespace = program.prepare(entry, files, args, clock)
        except BaseException as error:
            _tell(order.status, {"error": f"{type(error).__name__}: {error}"})
            os._exit(1)
        self._control.detach()
        os.closerange(3, 1 << 16)
        if code is None:
            program.finish(SystemExit(1))
        return code, namespace

    def attend(self, child: int) -> None:
        """In the zygote: wait for the program, end what it left, and tell."""
        order = self._order
        try:
            if not self._scene.contained:
                order.guard = _guard(child)
            ended, used, waited = self._wait(child)
            facts = {
                "ended": ended,
                "cpu": used.ru_utime + used.ru_stime,
                "memory": used.ru_maxrss * 1024,
                "wall": time.monotonic() - order.begun,
                "waited": waited,
                "files": [],
            }
            if self._scene.contained and (waited is not None or not order.fetch):
                _tell(order.status, facts)
            else:
                self._end(child)
                self._collect(facts)
        except OSError as error:
            _tell(order.status, {"error": f"{type(error).__name__}: {error}"})
            if not self._scene.contained:
                _kill_group(child)
            raise  # the zygote ends, and what is left in namespaces with it
        self._leave()

    def _first(self) -> int:
        """The first process of a new PID namespace, in which children are started from now on."""
        kernel.leave(kernel.NEWPID)
        # In there, orphans that end are to be reaped: which they are at once where their parent ignores it.
        _signal.signal(_signal.SIGCHLD, _signal.SIG_IGN)
        try:
            return kernel.wait_to_be_killed()
        finally:
            _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)

    def _end(self, child: int | None = None) -> None:
        """End every process that a program left.

        Args:
            child: its process, whose group it is without namespaces.
        """
        if self._order.first is not None:
            os.kill(self._order.first, signal.SIGKILL)
            os.waitpid(self._order.first, 0)  # returns when all of its namespace is gone
            self._order.first = None
        elif child is not None:
            _kill_group(child)
        if self._order.guard is not None:
            os.kill(self._order.guard, signal.SIGKILL)
            os.waitpid(self._order.guard, 0)
            self._order.guard = None
        if self._scene.contained:
            kernel.enter(self._own_pids)

    def _leave(self) -> None:
        """Be as before the program."""
        order = self._order
        if self._scene.contained:
            self._end()
            self._scene.take_down()
        for fd, own in enumerate(self._own_streams):
            os.dup2(own, fd)
        for descriptor in (order.job, *order.streams, order.status):
            os.close(descriptor)

    def _wait(self, child: int) -> tuple[int, Any, float | None]:
        """Wait for a child's end, and end it when the executor says so.

        Returns:
            Its status and its resource use; and if the executor said so, the seconds that it waited for a core.
        """
        waited = None
        watch = os.pidfd_open(child)
        self._poll.register(watch, select.POLLIN)
        while (watch, select.POLLIN) not in self._poll.poll():
            waited = self._waited(watch)
            if not self._control.recv(1):
                self._poll.unregister(self._control)  # the executor is gone; ``next`` sees it again
            if self._order.first is not None:
                os.kill(self._order.first, signal.SIGKILL)
            else:
                _kill_group(child)
        self._poll.unregister(watch)
        os.close(watch)
        _, ended, used = os.wait4(child, 0)
        return ended, used, waited

    def _waited(self, process: int) -> float:
        """Seconds that the process of a pidfd could have run, and others did; 0 where the kernel does not tell."""
        try:
            # That /proc is of a namespace further out, and says what the process is called there.
            facts = self._read(f"self/fdinfo/{process}").split()
            return int(self._read(f"{int(facts[facts.index(b'Pid:') + 1])}/schedstat").split()[1]) / 1e9
        except (OSError, ValueError):
            return 0.0

    def _read(self, name: str) -> bytes:
        descriptor = os.open(name, os.O_RDONLY, dir_fd=self._proc)
        try:
            return os.read(descriptor, 4096)
        finally:
            os.close(descriptor)

    def _collect(self, facts: dict[str, Any]) -> None:
        """Tell with the files that the program left; in a process of its own, since the zygote must not see them."""
        order = self._order
        collector = kernel.fork()
        if collector == 0:
            try:
                os.setpgid(0, 0)
                *_, wanted = _job(order)
                facts["files"] = collect.fetch(self._scene.home, wanted, order.disk)
                if not self._scene.contained:
                    os.chdir("/")
                    scene.remove(self._scene.home)
                _tell(order.status, facts)
            except BaseException as error:
                _tell(order.status, {"error": f"{type(error).__name__}: {error}"})
            os._exit(0)
        self._wait(collector)


def _guard(child: int) -> int:
    """A process that ends a program's group if the zygote is killed. In a PID namespace the kernel does."""
    zygote = os.getpid()
    guard = kernel.fork()
    if guard == 0:
        os.closerange(0, 1 << 16)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        kernel.die_with_parent(signal.SIGTERM)
        if os.getppid() == zygote:
            signal.sigwait([signal.SIGTERM])
        _kill_group(child)
        os._exit(0)
    return guard


def _kill_group(child: int) -> None:
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        try:
            os.kill(child, signal.SIGKILL)  # it has not yet made its group
        except ProcessLookupError:
            return


def _job(order: _Order) -> tuple[Any, ...]:
    """The job, as ``slot.Order.to_bytes`` makes it."""
    data = os.pread(order.job, order.size, 0)
    while len(data) < order.size:
        data += os.pread(order.job, order.size, len(data))
    job: tuple[Any, ...] = marshal.loads(data)  # from our own executor, and its own interpreter
    return job


def _tell(descriptor: int, report: dict[str, Any]) -> None:
    """Report; the first report counts."""
    data = marshal.dumps(report)
    data = len(data).to_bytes(8, "big") + data
    while data:
        data = data[os.write(descriptor, data) :]
