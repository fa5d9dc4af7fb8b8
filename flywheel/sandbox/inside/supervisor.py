"""The first process of a program's own namespaces: sets the scene, starts the program, and tells how it ended.

It alone reports exit status and resource use, over a descriptor that the program does not have. With namespaces it is
PID 1 of a PID namespace: nothing in there can signal it, and when it ends everything in there is killed.
"""

from __future__ import annotations

import marshal
import os
import random
import resource
import shutil
import signal
import stat
import time
import types
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from flywheel.sandbox.inside import kernel, program

_CEILINGS = {
    name.removeprefix("RLIMIT_"): (number, resource.getrlimit(number)[1])
    for name, number in vars(resource).items()
    if name.startswith("RLIMIT_")
}
_UID = 1000  # inside; which user it is outside is the executor's choice


class Run(BaseException):
    """Carries a compiled program up to the interpreter's outermost frame."""

    def __init__(self, code: types.CodeType, namespace: dict[str, Any]) -> None:
        self.code, self.namespace = code, namespace


@dataclass(frozen=True)
class Supervisor:
    """Starts supervisors.

    Attributes:
        level: "namespaces", or "landlock" where there are none.
        seccomp: a filter of system calls to install in each program, as BPF; empty where the zygote's is enough.
        readable: with Landlock: what programs may read.
        proc: whether the kernel lets programs have a /proc of their own; if not, it is empty.
        scratch: where the work folder is made: a tmpfs of its own, or with Landlock a folder of the slot.
    """

    level: str
    seccomp: bytes
    readable: list[str]
    scratch: str
    proc: bool

    @property
    def contained(self) -> bool:
        """Whether the kernel ends a program's processes together with its supervisor."""
        return self.level == "namespaces"

    def start(self, control: Any, descriptors: list[int]) -> int:
        """Start one; returns its process id. In the program's own process this raises ``Run``."""
        user, group = os.getuid(), os.getgid()
        spaces = kernel.NEWUSER | kernel.NEWPID | kernel.NEWNS | kernel.NEWIPC
        pid = kernel.clone(spaces if self.contained else 0)
        if pid:
            return pid
        job, stdin, stdout, stderr, status = descriptors
        try:
            control.close()
            if not self.contained:
                kernel.die_with_parent(signal.SIGTERM)
                os.setpgid(0, 0)
            begun = time.monotonic()
            # All else is done below the second fork: what this process touches is copied for nothing. Not os.fork:
            # there is one thread, and what Python does after a fork for the sake of others takes longer than the rest.
            child = kernel.clone(0)
            if child == 0:
                random.seed()
                self._become(user, group, job, (stdin, stdout, stderr), status)
            kernel.set_dumpable(False)
            for descriptor in (stdin, stdout, stderr):
                os.close(descriptor)
            self._watch(child, begun, job, status)
        except Run:
            raise
        except BaseException as error:
            _tell(status, {"error": f"{type(error).__name__}: {error}"})
        os._exit(0)

    def _become(self, user: int, group: int, job: int, streams: tuple[int, int, int], status: int) -> NoReturn:
        """The program's process: sets its own scene, and ends with nothing that is not the program's own."""
        try:
            os.setpgid(0, 0)  # a group of its own to signal; a session of its own would cost a scheduling group
            for target, stream in enumerate(streams):
                os.dup2(stream, target)
            header = _read_job(job)
            self._set_scene(user, group, header)
            _write_files(header["files"])
            if header["env"]:
                os.environ.update(header["env"])
            if status != 3:
                os.dup2(status, 3)
            os.set_inheritable(3, False)
            os.closerange(4, 1 << 16)
            self._confine(header)
            if header["argv"] is not None:
                _execute(header["argv"])
            os.close(3)
            source = next((text for name, text, _ in header["files"] if name == header["entry"]), None)
            code, namespace = program.prepare(header["entry"], source, header["args"], header["clock"])
        except BaseException as error:
            _tell(status, {"error": f"{type(error).__name__}: {error}"})
            os._exit(1)
        if code is None:
            program.finish(SystemExit(1))
        raise Run(code, namespace)

    def _set_scene(self, user: int, group: int, header: dict[str, Any]) -> None:
        """A user, a /proc and a work folder of the program's own."""
        home = f"{self.scratch}/work"
        if self.contained:
            _write_once("/proc/self/setgroups", "deny")
            _write_once("/proc/self/uid_map", f"{_UID} {user} 1")
            _write_once("/proc/self/gid_map", f"{_UID} {group} 1")
            size = f"size={header['disk']},nr_inodes={header['files_most']},mode=755"
            kernel.mount("tmpfs", self.scratch, "tmpfs", kernel.NOSUID | kernel.NODEV, size)
            os.mkdir(f"{self.scratch}/.shm")  # noqa: PTH102
            kernel.mount(f"{self.scratch}/.shm", "/dev/shm", flags=kernel.BIND)
            if self.proc:
                kernel.mount("proc", "/proc", "proc", kernel.NOSUID | kernel.NODEV | kernel.NOEXEC)
                _write_once("/proc/sys/user/max_user_namespaces", "0")  # in there, where programs could be root again
            else:
                kernel.mount("tmpfs", "/proc", "tmpfs", kernel.NOSUID | kernel.NODEV | kernel.RDONLY, "size=0")
        else:
            shutil.rmtree(home, ignore_errors=True)
        if self.proc:
            _write_once("/proc/self/oom_score_adj", "1000")
        os.mkdir(home)  # noqa: PTH102
        os.chdir(home)

    def _confine(self, header: dict[str, Any]) -> None:
        for name, value in header["rlimits"]:
            number, ceiling = _CEILINGS[name]
            value = value if ceiling == resource.RLIM_INFINITY else min(value, ceiling)
            # A second after the signal that can be ignored comes the one that cannot.
            last = value + 1 if name == "CPU" and ceiling in (resource.RLIM_INFINITY, value + 1) else value
            resource.setrlimit(number, (value, last))
        kernel.no_new_privileges()
        kernel.drop_capabilities()
        if not self.contained:
            kernel.restrict_files(self.readable, [f"{self.scratch}/work", "/dev/null"])
        if self.seccomp:
            kernel.filter_system_calls(self.seccomp)

    def _watch(self, child: int, begun: float, job: int, status: int) -> None:
        """Wait for the program, end what it left behind, and tell."""
        if not self.contained:
            signal.signal(signal.SIGTERM, lambda *_: os.killpg(child, signal.SIGKILL))
        while True:
            pid, ended, used = os.wait4(-1, 0)
            if pid == child:
                break
        wall = time.monotonic() - begun
        files: list[tuple[str, bytes]] = []
        if not self.contained or os.pread(job, 1, 0) == b"F":
            _kill_rest(None if self.contained else child)  # else this process's end does it
            header = _read_job(job)
            os.chdir(f"{self.scratch}/work")
            files = _fetch(header["fetch"], header["disk"])
        if not self.contained:
            shutil.rmtree(f"{self.scratch}/work", ignore_errors=True)
        report = {
            "ended": ended,
            "cpu": used.ru_utime + used.ru_stime,
            "memory": used.ru_maxrss * 1024,
            "wall": wall,
            "files": files,
        }
        _tell(status, report)


def _read_job(descriptor: int) -> dict[str, Any]:
    size = os.fstat(descriptor).st_size
    data = os.pread(descriptor, size, 1)
    while len(data) + 1 < size:
        data += os.pread(descriptor, size, len(data) + 1)
    header: dict[str, Any] = marshal.loads(data)  # from our own executor, and its own interpreter
    return header


def _write_files(files: list[tuple[str, bytes, int]]) -> None:
    for name, content, mode in files:
        if "/" in name:
            Path(name).parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        done = os.write(descriptor, content)
        while done < len(content):
            done += os.write(descriptor, content[done:])
        os.close(descriptor)


def _write_once(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    os.write(descriptor, text.encode())
    os.close(descriptor)


def _execute(argv: list[str]) -> NoReturn:
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)  # Python ignores or handles them, and what is executed would inherit it
    path = argv[0] if "/" in argv[0] else shutil.which(argv[0])
    if path is None:
        raise FileNotFoundError(f"{argv[0]} is not installed in the sandbox")
    try:
        os.execv(path, argv)
    except OSError as error:
        if "/" not in argv[0]:
            raise
        # What the compiler left is no program: the program's failure, as a shell would say it.
        os.write(2, f"{path}: {error.strerror}\n".encode())
        os._exit(126)


def _kill_rest(group: int | None) -> None:
    """End whatever the program left running, and reap it."""
    try:
        if group is None:
            os.kill(-1, signal.SIGKILL)
        else:
            os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return
    while True:
        try:
            os.wait4(-1, 0)
        except ChildProcessError:
            return


def _fetch(wanted: list[str] | None, most: int) -> list[tuple[str, bytes]]:
    """Regular files of the work folder: those that are named, or (None) all; never through a link."""
    if wanted is None:
        wanted = [f"{folder}/{name}"[2:] for folder, _, names in os.walk(".") for name in names]
    found = []
    for name in sorted(wanted):
        content = _read_regular(name, most)
        if content is not None:
            found.append((name, content))
            most -= len(content)
    return found


def _read_regular(name: str, most: int) -> bytes | None:
    """A file's content; None if it is no regular file, larger than ``most``, or not there."""
    *folders, last = PurePosixPath(name).parts
    at = os.open(".", os.O_DIRECTORY | os.O_PATH)
    try:
        for folder in folders:
            inner = os.open(folder, os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
            os.close(at)
            at = inner
        descriptor = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=at)
    except OSError:
        return None
    finally:
        os.close(at)
    about = os.fstat(descriptor)
    if not stat.S_ISREG(about.st_mode) or about.st_size > most:
        os.close(descriptor)
        return None
    with os.fdopen(descriptor, "rb") as file:
        return file.read(most)


def _tell(descriptor: int, report: dict[str, Any]) -> None:
    """Report; the first report counts."""
    data = marshal.dumps(report)
    data = len(data).to_bytes(8, "big") + data
    while data:
        data = data[os.write(descriptor, data) :]
