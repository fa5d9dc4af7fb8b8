"""Where a program runs: its namespaces, mounts, user, work folder, files and limits."""

from __future__ import annotations

import os
import resource
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from flywheel.sandbox.inside import kernel

_UID = 1000  # which user programs are, as they see it; which one outside is the executor's choice
_ALWAYS = {resource.RLIMIT_NOFILE: 512, resource.RLIMIT_CORE: 0, resource.RLIMIT_MEMLOCK: 0}
_ALWAYS |= {getattr(resource, "RLIMIT_MSGQUEUE", 12): 0}


@dataclass
class Scene:
    """Where programs run.

    Attributes:
        contained: in namespaces of their own; otherwise under Landlock.
        seccomp: a filter of system calls to install in each program, as BPF; empty where the zygote's is enough.
        readable: with Landlock: what programs may read.
        scratch: where the work folder is made: a tmpfs of its own, or with Landlock a folder of the slot.
        proc: whether the kernel lets programs have a /proc of their own; if not, it is empty.
    """

    contained: bool
    seccomp: bytes
    readable: list[str]
    scratch: str
    proc: bool
    _namespaces: list[int] = field(default_factory=list)
    _ceilings: dict[int, int] = field(default_factory=dict)

    @property
    def home(self) -> str:
        """The work folder."""
        return f"{self.scratch}/work"

    def prepare(self) -> None:
        """In the zygote, once: what all programs inherit. It goes on in a child, which may give programs namespaces."""
        for number, value in _ALWAYS.items():
            resource.setrlimit(number, (value, value))
        limits = (number for name, number in vars(resource).items() if name.startswith("RLIMIT_"))
        self._ceilings = {number: resource.getrlimit(number)[1] for number in limits}
        if not self.contained:
            return
        kernel.set_dumpable(True)  # or its entries in /proc were not its own
        _own_user(os.getuid(), os.getgid())
        kernel.leave(kernel.NEWPID | kernel.NEWNS | kernel.NEWIPC)
        child = kernel.fork()
        if child:
            os.closerange(3, 1 << 16)
            _, status = os.waitpid(child, 0)
            os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
        kernel.set_dumpable(False)  # the first process of a program's PID namespace is in this one's memory
        self._namespaces = [os.open(f"/proc/self/ns/{name}", os.O_RDONLY) for name in ("mnt", "ipc")]

    def set_up(self, disk: int, most: int) -> None:
        """In the zygote, before each program: namespaces of mounts and of IPC, and an empty work folder.

        They belong to the zygote's user namespace, in which programs have no rights.

        Args:
            disk: bytes of the work folder.
            most: files in it.
        """
        kernel.leave(kernel.NEWNS | kernel.NEWIPC)
        options = f"size={disk},nr_inodes={most},mode=755"
        kernel.mount("tmpfs", self.scratch, "tmpfs", kernel.NOSUID | kernel.NODEV, options)
        os.mkdir(f"{self.scratch}/.shm")  # noqa: PTH102
        kernel.mount(f"{self.scratch}/.shm", "/dev/shm", flags=kernel.BIND)
        os.mkdir(self.home)  # noqa: PTH102
        os.chdir(self.home)

    def take_down(self) -> None:
        """In the zygote, after each program: back into its own namespaces; the program's end with its processes."""
        for namespace in self._namespaces:
            kernel.enter(namespace)

    def enter(self) -> None:
        """In the program's process: what only it can do, to be alone with its processes, user and work folder."""
        kernel.set_dumpable(True)  # or its entries in /proc were not its own
        if not self.contained:
            remove(self.home)
            os.mkdir(self.home)  # noqa: PTH102
            os.chdir(self.home)
        elif self.proc:
            kernel.mount("proc", "/proc", "proc", kernel.NOSUID | kernel.NODEV | kernel.NOEXEC)
            _own_user(_UID, _UID)
            _write("/proc/sys/user/max_user_namespaces", "0")  # in there, where programs could be root again
        else:
            own = os.open("/proc/self", os.O_PATH | os.O_DIRECTORY)
            kernel.mount("tmpfs", "/proc", "tmpfs", kernel.NOSUID | kernel.NODEV | kernel.RDONLY, "size=0")
            _own_user(_UID, _UID, own)
            os.close(own)
            return
        _write("/proc/self/oom_score_adj", "1000")

    def confine(self, rlimits: list[tuple[int, int, int]]) -> None:
        """Set the limits, and give up all rights."""
        for number, soft, hard in rlimits:
            ceiling = self._ceilings[number]
            if ceiling != resource.RLIM_INFINITY:
                soft, hard = min(soft, ceiling), min(hard, ceiling)
            resource.setrlimit(number, (soft, hard))
        kernel.drop_capabilities()
        if not self.contained:
            kernel.restrict_files(self.readable, [self.home, "/dev/null"])
        if self.seccomp:
            kernel.filter_system_calls(self.seccomp)


def _own_user(user: int, group: int, own: int | None = None) -> None:
    """Go into a new user namespace, and be ``_UID`` there.

    Args:
        user: who that is in the namespace outside.
        group: likewise.
        own: descriptor of this process's folder in /proc, where that is not to be seen.
    """
    kernel.leave(kernel.NEWUSER)
    folder = "/proc/self/" if own is None else ""
    _write(f"{folder}setgroups", "deny", own)
    _write(f"{folder}uid_map", f"{_UID} {user} 1", own)
    _write(f"{folder}gid_map", f"{_UID} {group} 1", own)


def write_files(files: list[tuple[str, bytes, int]]) -> None:
    """Write files into the current folder: names, contents and modes."""
    for name, content, mode in files:
        if "/" in name:
            Path(name).parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        done = os.write(descriptor, content)
        while done < len(content):
            done += os.write(descriptor, content[done:])
        os.close(descriptor)


def execute(argv: list[str]) -> NoReturn:
    """Become another program; one that cannot be executed ends as a shell would end it."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)  # Python ignores or handles them, and what is executed would inherit it
    path = argv[0] if "/" in argv[0] else _which(argv[0])
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


def remove(folder: str) -> None:
    import shutil  # what it imports would cost every program

    shutil.rmtree(folder, ignore_errors=True)


def _which(name: str) -> str | None:
    import shutil

    return shutil.which(name)


def _write(path: str, text: str, folder: int | None = None) -> None:
    descriptor = os.open(path, os.O_WRONLY, dir_fd=folder)
    os.write(descriptor, text.encode())
    os.close(descriptor)
