"""One place where a program can run at a time: its cgroup, its warm zygotes, and the watch over what runs."""

from __future__ import annotations

import marshal
import os
import resource
import select
import signal
import socket
import subprocess
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flywheel.sandbox import isolation
from flywheel.sandbox.cgroups import Group
from flywheel.sandbox.job import MIB, Level, Limits, Outcome, Status, Usage

_MOST_ZYGOTES = 4
_READY_SECONDS = 60.0
_END_SECONDS = 10.0  # from the kill until the kernel has ended everything; past it the zygote is given up
_PIPE = 1 << 16
_STARVED = 0.25
"""Share of its wall time for which a program waited for a core, and from which it says nothing of the program."""
_Key = tuple[int, tuple[str, ...]]


class SlotBroken(Exception):
    """The sandbox failed, and not the program: the zygote died, or the scene could not be set."""


class Starved(SlotBroken):
    """The machine is too busy: a program that runs alone in its place waited for a core, and not the cores for it."""


@dataclass(frozen=True)
class Order:
    """One run, as the supervisor takes it.

    Attributes:
        files: contents by name; those in ``programs`` may be executed.
        argv: what to execute; None runs ``entry`` in the warm interpreter, with ``args``.
        fetch: files to bring back; None is all.
        stack: bytes of stack.
        address_space: whether memory may be limited by RLIMIT_AS where there is no cgroup.
    """

    files: Mapping[str, bytes]
    limits: Limits
    argv: Sequence[str] | None = None
    entry: str = ""
    args: Sequence[str] = ()
    stdin: bytes = b""
    hash_seed: int = 0
    clock: int | None = None
    preload: tuple[str, ...] = ()
    programs: frozenset[str] = frozenset()
    environment: Mapping[str, str] = field(default_factory=dict)
    fetch: Sequence[str] | None = ()
    stack: int = 64 * MIB
    address_space: bool = True

    def to_bytes(self, by_cgroup: bool, others: int) -> bytes:
        """As ``marshal`` has it: it is read by this same interpreter.

        Args:
            by_cgroup: whether memory is limited by one.
            others: processes and threads that the program's user has beside it.
        """
        limits = self.limits
        processes = others + limits.processes + 1  # the first process counts
        cpu = max(1, int(-(-limits.cpu // 1)))
        # Of CPU time: a second after the signal that can be ignored comes the one that cannot.
        rlimits = [
            (resource.RLIMIT_CPU, cpu, cpu + 1),
            (resource.RLIMIT_FSIZE, limits.disk, limits.disk),
            (resource.RLIMIT_NPROC, processes, processes),
        ]
        stack = self.stack
        if self.address_space and not by_cgroup:
            rlimits.append((resource.RLIMIT_AS, limits.memory, limits.memory))
            stack = min(stack, limits.memory // 16)  # each thread takes as much of the address space
        rlimits.append((resource.RLIMIT_STACK, stack, stack))
        files = [(name, bytes(c), 0o755 if name in self.programs else 0o644) for name, c in self.files.items()]
        argv = None if self.argv is None else list(self.argv)
        fetch = None if self.fetch is None else list(self.fetch)
        return marshal.dumps(
            (files, self.entry, list(self.args), argv, dict(self.environment), self.clock, rlimits, fetch)
        )

    def message(self, size: int) -> bytes:
        """What the zygote has to know of a job of ``size`` bytes."""
        fetch = self.fetch is None or len(self.fetch) > 0
        return f"J{size} {int(fetch)} {self.limits.disk} {max(1024, self.limits.disk // 4096)}".encode()


class Zygote:
    """A warm interpreter inside the sandbox, from outside."""

    def __init__(self, way: isolation.Way, slot: int, key: _Key, scratch: str, folder: Path, join: str) -> None:
        """Start one, and wait until it is ready.

        Args:
            key: the hash seed, and modules to load.
            scratch: where programs have their work folder.
            folder: of the executor.
            join: shell commands that put the shell into the slot's cgroup.

        Raises:
            SlotBroken: it did not become ready; says why.
        """
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        errors = os.memfd_create("stderr")
        start = isolation.start(way, slot, *key, theirs.fileno(), scratch, folder)
        # The control socket becomes descriptor 3; a shell does that before anything of ours runs. It comes as stdin,
        # since not every shell can name a descriptor above 9.
        moved = f'{join} exec "$@" 3<&0 </dev/null'
        try:
            self.process = subprocess.Popen(
                ["sh", "-c", moved, "sh", *start.command],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env=start.environment,
                cwd="/",
                pass_fds=start.texts,
                start_new_session=True,
            )
            theirs.close()
            self._await_ready(errors)
        finally:
            theirs.close()
            for descriptor in (errors, *start.texts):
                os.close(descriptor)

    def _await_ready(self, errors: int) -> None:
        self.control.settimeout(_READY_SECONDS)
        try:
            said = self.control.recv(8192)
        except TimeoutError:
            said = b"Enot ready in time"
        self.control.settimeout(None)
        if said == b"R":
            return
        self.end()
        size = os.fstat(errors).st_size
        wrote = os.pread(errors, min(size, 2000), max(0, size - 2000)).decode(errors="replace").strip()
        raise SlotBroken(said[1:].decode(errors="replace") or (wrote.splitlines()[-1:] and wrote) or "it ended at once")

    def end(self) -> None:
        """End it and all that is below it, and wait until it is gone."""
        self.control.close()  # it kills what runs, and leaves
        try:
            self.process.wait(1.0)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@dataclass
class _Watch:
    """What has been seen of a run so far; with ``crowd``, processes and threads when its wall time was over."""

    stdout: bytearray = field(default_factory=bytearray)
    stderr: bytearray = field(default_factory=bytearray)
    status: bytearray = field(default_factory=bytearray)
    stopped: Status | None = None
    crowd: int = 0


class Slot:
    """Runs one program at a time. Belongs to one thread."""

    def __init__(self, index: int, way: isolation.Way, group: Group | None, folder: Path) -> None:
        """
        Args:
            index: its number.
            way: how its programs are isolated.
            group: its cgroup, if there are any.
            folder: of the executor: what its compilers read, and with Landlock what its programs write.
        """
        self._index, self._way, self._group, self._folder = index, way, group, folder
        self._scratch = isolation.scratch(way, index, folder)
        self._zygotes: OrderedDict[_Key, Zygote] = OrderedDict()
        self._own_memory = 0
        self._buffer = memoryview(bytearray(_PIPE))  # one for all: new memory would be faulted in at each read
        self._in_force: tuple[int, int] | None = None
        self.level: Level = "landlock" if way == "landlock" else "namespaces"

    def run(self, order: Order) -> Outcome:
        """Run one program.

        Raises:
            SlotBroken: the sandbox failed; the next run starts a new zygote.
        """
        key = (order.hash_seed, order.preload)
        zygote = self._zygote(key)
        try:
            self._limit(order.limits)
            killed = self._group.killed() if self._group else 0
            return self._outcome(self._watch(zygote, order), order.limits, killed)
        except Starved:
            raise
        except (OSError, SlotBroken, ValueError) as error:
            self._forget(key)
            raise error if isinstance(error, SlotBroken) else SlotBroken(f"{type(error).__name__}: {error}") from error

    def close(self) -> None:
        while self._zygotes:
            self._forget(next(iter(self._zygotes)))
        if self._group is not None:
            self._group.close()

    def _zygote(self, key: _Key) -> Zygote:
        if key in self._zygotes:
            self._zygotes.move_to_end(key)
            return self._zygotes[key]
        if len(self._zygotes) >= _MOST_ZYGOTES:
            self._forget(next(iter(self._zygotes)))
        join = ""
        if self._group is not None:
            self._lift()
            join = "".join(f"echo $$ >'{folder}/cgroup.procs' || exit 97; " for folder in self._group.folders)
        try:
            self._zygotes[key] = Zygote(self._way, self._index, key, self._scratch, self._folder, join)
        except OSError as error:
            raise SlotBroken(str(error)) from error
        if self._group is not None:
            self._own_memory = self._group.used_memory()
        return self._zygotes[key]

    def _forget(self, key: _Key) -> None:
        self._zygotes.pop(key).end()

    def _lift(self) -> None:
        """Without limits, for the zygotes themselves."""
        assert self._group is not None
        self._group.limit_memory(1 << 40)
        self._group.limit_processes(1 << 15)
        self._in_force = None

    def _limit(self, limits: Limits) -> None:
        if self._group is None or self._in_force == (limits.memory, limits.processes):
            return
        self._group.limit_memory(self._own_memory + limits.memory)
        self._group.limit_processes(self._own_processes + limits.processes)
        self._in_force = (limits.memory, limits.processes)

    @property
    def _own_processes(self) -> int:
        """For each zygote: bubblewrap's two processes, itself and who waits for it; and the first of the program's."""
        return 4 * len(self._zygotes) + 1

    def _crowd(self) -> int:
        """Processes and threads of the program that runs; 0 if nobody can say."""
        return self._group.processes() - self._own_processes if self._group else 0

    def _watch(self, zygote: Zygote, order: Order) -> _Watch:
        """Start a program, feed it, collect what it writes, end it at its limits."""
        job = os.memfd_create("job")
        pipes = [os.pipe2(os.O_CLOEXEC) for _ in range(4)]
        (stdin_r, stdin), (stdout, stdout_w), (stderr, stderr_w), (status, status_w) = pipes
        theirs = [job, stdin_r, stdout_w, stderr_w, status_w]
        ours = {stdin, stdout, stderr, status}
        try:
            for descriptor in (stdin_r, stdout_w, stderr_w):
                os.fchmod(descriptor, 0o666)  # or another user's program could not open /dev/stdin
            data = order.to_bytes(self._group is not None, isolation.others(self._way, self._index))
            _write_all(job, data)
            socket.send_fds(zygote.control, [order.message(len(data))], theirs)
            for descriptor in theirs:
                os.close(descriptor)
            theirs = []
            watch = _Watch()
            sinks = {stdout: watch.stdout, stderr: watch.stderr, status: watch.status}
            _Pump(zygote, order, watch, sinks, stdin, ours, self._buffer, self._crowd).run()
            return watch
        finally:
            for descriptor in (*theirs, *ours):
                os.close(descriptor)

    def _outcome(self, watch: _Watch, limits: Limits, killed: int) -> Outcome:
        said = _report(watch.status)
        if "error" in said:
            raise SlotBroken(str(said["error"]))
        usage = Usage(said.get("cpu", 0.0), said.get("wall", 0.0), said.get("memory", 0))
        ended: int | None = said.get("ended")
        number = os.WTERMSIG(ended) if ended is not None and os.WIFSIGNALED(ended) else None
        out_of_memory = ended != 0 and self._group is not None and self._group.killed() > killed
        stopped = watch.stopped
        waited = said.get("waited")
        if stopped == "wall" and ended is not None and waited is None and usage.wall <= limits.wall:
            stopped = None  # it had ended by itself, and it was we who came late
        starved = (waited or 0.0) > _STARVED * limits.wall and usage.cpu < limits.cpu
        if stopped == "wall" and starved and watch.crowd == 1:  # several may keep one another from the cores
            raise Starved(f"the machine is too busy: a program waited {waited:.1f} of {limits.wall:g} s for a core")
        status, detail = _ending(stopped, ended, number, usage, limits, out_of_memory)
        return Outcome(
            status,
            exit_code=os.WEXITSTATUS(ended) if status == "exited" and ended is not None else None,
            signal=number if status in ("oom", "cpu", "signaled") else None,
            stdout=bytes(watch.stdout),
            stderr=bytes(watch.stderr),
            usage=usage,
            limits=limits,
            level=self.level,
            detail=detail,
            files=dict(said["files"]) if status == "exited" else {},
        )


def _ending(
    stopped: Status | None, ended: int | None, number: int | None, usage: Usage, limits: Limits, out_of_memory: bool
) -> tuple[Status, str]:
    """How a program ended, and in words which limit it met.

    Args:
        stopped: why we ended it, if we did.
        ended: its exit status, as wait4(2) gives it; None if that is not known.
        number: the signal that ended it.
        out_of_memory: whether the kernel killed one of its processes for that.
    """
    if stopped == "output_limit":
        return "output_limit", f"more than {limits.output:,} bytes"
    if out_of_memory:
        return "oom", f"more than {limits.memory:,} bytes of memory"
    if usage.cpu >= limits.cpu or number == signal.SIGXCPU:
        return "cpu", f"more than {limits.cpu:g} s of CPU time"
    if stopped == "wall":
        return "wall", f"more than {limits.wall:g} s"
    if number == signal.SIGKILL and usage.cpu >= 0.7 * limits.cpu:
        # The kernel strikes by ticks, which on a busy machine is before or after what it then says was used.
        return "cpu", f"more than {limits.cpu:g} s of CPU time"
    if ended is None:
        raise SlotBroken("the supervisor ended without a report")
    return ("exited", "") if number is None else ("signaled", _signal_name(number))


class _Pump:
    """Moves bytes between a program and us, until all of its ends are closed."""

    def __init__(
        self,
        zygote: Zygote,
        order: Order,
        watch: _Watch,
        sinks: dict[int, bytearray],
        stdin: int,
        ours: set[int],
        buffer: memoryview,
        crowd: Callable[[], int],
    ) -> None:
        self._zygote, self._watch, self._sinks, self._crowd = zygote, watch, sinks, crowd
        self._stdin, self._ours = stdin, ours
        self._left = memoryview(order.stdin)
        self._limits = order.limits
        self._poll = select.poll()
        self._buffer = buffer

    def run(self) -> None:
        for descriptor in self._sinks:
            self._poll.register(descriptor, select.POLLIN)
        os.set_blocking(self._stdin, False)
        self._feed()
        if self._stdin in self._ours:
            self._poll.register(self._stdin, select.POLLOUT)
        deadline = time.monotonic() + self._limits.wall
        reading = set(self._sinks)
        while reading:
            left = deadline - time.monotonic()
            if left <= 0:
                if self._watch.stopped is not None:
                    raise SlotBroken("a program could not be ended")
                self._watch.crowd = self._crowd()
                self._stop("wall")
                deadline = time.monotonic() + _END_SECONDS
                continue
            for descriptor, event in self._poll.poll(left * 1000 + 1):
                if descriptor == self._stdin:
                    self._feed() if event & select.POLLOUT and not event & select.POLLERR else self._close_stdin()
                elif not self._take(descriptor):
                    self._poll.unregister(descriptor)
                    reading.discard(descriptor)
                elif self._watch.stopped == "output_limit":
                    deadline = min(deadline, time.monotonic() + _END_SECONDS)

    def _take(self, descriptor: int) -> bool:
        """Read what is there; False at the end."""
        data = self._buffer[: os.readv(descriptor, [self._buffer])]
        sink = self._sinks[descriptor]
        if sink is self._watch.status:
            sink += data
            return bool(data)
        room = self._limits.output - len(self._watch.stdout) - len(self._watch.stderr)
        sink += data[:room]
        if len(data) > room and self._watch.stopped is None:
            self._stop("output_limit")
        return bool(data)

    def _stop(self, why: Status) -> None:
        self._watch.stopped = why
        self._zygote.control.send(b"K")

    def _feed(self) -> None:
        try:
            while self._left:
                self._left = self._left[os.write(self._stdin, self._left[: 1 << 20]) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            pass
        self._close_stdin()

    def _close_stdin(self) -> None:
        with suppress(KeyError):
            self._poll.unregister(self._stdin)
        self._ours.discard(self._stdin)
        os.close(self._stdin)


def _write_all(descriptor: int, data: bytes) -> None:
    done = os.write(descriptor, data)
    while done < len(data):
        done += os.write(descriptor, data[done:])


def _report(status: bytearray) -> dict[str, Any]:
    """The supervisor's first report; empty if it was cut short."""
    length = int.from_bytes(status[:8], "big")
    if len(status) < 8 + length or not length:
        return {}
    report: dict[str, Any] = marshal.loads(bytes(status[8 : 8 + length]))
    return report


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
