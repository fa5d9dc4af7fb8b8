"""The system calls that Python's standard library lacks, for Linux on x86-64 and ARM64."""

from __future__ import annotations

import ctypes
import os
import platform
import struct

NEWNS, NEWIPC, NEWUSER, NEWPID = 0x20000, 0x8000000, 0x10000000, 0x20000000
"""Flags of clone(2): namespaces of mounts, of System V IPC, of users, of processes."""
RDONLY, NOSUID, NODEV, NOEXEC, BIND = 1, 2, 4, 8, 1 << 12
"""Flags of mount(2)."""

_VM, _FILES, _SIGCHLD = 0x100, 0x400, 17
_CLONE = {"x86_64": 56, "aarch64": 220}.get(platform.machine())
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38

_THIS_THREAD, _NOTHING = struct.pack("=Ii", 0x20080522, 0), bytes(24)  # _LINUX_CAPABILITY_VERSION_3

_libc = ctypes.CDLL(None, use_errno=True)
# Raw system calls take machine words; left to itself ctypes would pass 32-bit integers.
_libc.syscall.restype = ctypes.c_long
_libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]
_libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
_libc.capset.argtypes = [ctypes.c_char_p, ctypes.c_char_p]
_libc.clone.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p]
_pause = ctypes.cast(_libc.pause, ctypes.c_void_p)
_stack = ctypes.create_string_buffer(1 << 16)
_stack_top = (ctypes.addressof(_stack) + len(_stack)) & ~63


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _call(number: int, what: str, *args: int | ctypes._Pointer | ctypes._SimpleCData | bytes | None) -> int:  # type: ignore[type-arg]
    words = [ctypes.c_ulong(a) if isinstance(a, int) else a for a in args]
    return _checked(_libc.syscall(ctypes.c_long(number), *words), what)


def fork() -> int:
    """fork(2), without what Python does around it; 0 in the child."""
    if _CLONE is None:
        raise OSError(f"clone is not known on {platform.machine()}")
    return _call(_CLONE, "fork", _SIGCHLD, 0, 0, 0, 0)


def wait_to_be_killed() -> int:
    """Start a process that does nothing else; its id.

    It runs in the caller's own memory and with its descriptors, so that nothing is copied for it: it costs a third of
    what a fork does. One at a time: they all wait on the same stack.
    """
    return _checked(_libc.clone(_pause, _stack_top, _VM | _FILES | _SIGCHLD, None), "clone")


def leave(namespaces: int) -> None:
    """unshare(2): go into new namespaces; into a new one of processes, children alone do."""
    _checked(_libc.unshare(namespaces), "unshare")


def enter(namespace: int) -> None:
    """setns(2): go into a namespace, by a descriptor; into one of processes, children alone do."""
    _checked(_libc.setns(namespace, 0), "setns")


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2)."""
    words = [text.encode() if text else None for text in (source, target, kind)]
    _checked(_libc.mount(*words, flags, data.encode() or None), f"mounting {kind or source} at {target}")


def set_dumpable(on: bool) -> None:
    """Whether processes of the same user may read this one's memory and /proc entries."""
    _checked(_libc.prctl(_PR_SET_DUMPABLE, int(on), 0, 0, 0), "prctl dumpable")


def die_with_parent(signal: int) -> None:
    _checked(_libc.prctl(_PR_SET_PDEATHSIG, signal, 0, 0, 0), "prctl parent-death signal")


def no_new_privileges() -> None:
    _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl no_new_privs")


def drop_capabilities() -> None:
    """Empty all capability sets of this thread."""
    _checked(_libc.capset(_THIS_THREAD, _NOTHING), "capset")


def filter_system_calls(program: bytes) -> None:
    """Install a seccomp filter, as BPF instructions; needs no_new_privileges."""
    instructions = ctypes.create_string_buffer(program, len(program))
    fprog = struct.pack("@HP", len(program) // 8, ctypes.addressof(instructions))
    words = ctypes.cast(ctypes.create_string_buffer(fprog, len(fprog)), ctypes.c_void_p).value
    _checked(_libc.prctl(_PR_SET_SECCOMP, 2, words or 0, 0, 0), "prctl seccomp")


def landlock_version() -> int:
    """Landlock's ABI version; 0 where the kernel has none."""
    return max(0, int(_libc.syscall(ctypes.c_long(_LANDLOCK_CREATE), None, ctypes.c_ulong(0), ctypes.c_ulong(1))))


_READ = 0b1101  # execute, read file, read directory
_ALL_BY_VERSION = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}
_FILE_ONLY = 0b111 | 1 << 14 | 1 << 15  # execute, write, read, truncate, ioctl: what a rule on a file may name


def restrict_files(readable: list[str], writable: list[str]) -> None:
    """Landlock: from now on only these paths and what is below them; no TCP, no signals or sockets to the outside.

    What the kernel's version does not know is not restricted: the caller asks ``landlock_version`` first.
    """
    version = landlock_version()
    everything = _ALL_BY_VERSION.get(version, (1 << 16) - 1)
    attributes = struct.pack("=QQQ", everything, 0b11 if version >= 4 else 0, 0b11 if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = _call(_LANDLOCK_CREATE, "landlock_create_ruleset", attributes[:size], size, 0)
    for paths, access in ((readable, _READ), (writable, everything)):
        for path in paths:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
            allowed = access if os.path.isdir(path) else access & _FILE_ONLY & everything  # noqa: PTH112
            _call(_LANDLOCK_ADD, f"landlock rule for {path}", ruleset, 1, struct.pack("=Qi", allowed, fd), 0)
            os.close(fd)
    _call(_LANDLOCK_RESTRICT, "landlock_restrict_self", ruleset, 0)
    os.close(ruleset)
