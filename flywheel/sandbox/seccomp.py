"""Which system calls programs may make, as BPF for the kernel.

A list of what is refused: what no program needs and what has been the way out of many a sandbox. Everything else is
harmless in namespaces of one's own, without capabilities and with no_new_privs.
"""

from __future__ import annotations

import errno
import tempfile
from functools import cache

from flywheel.errors import UserError

REFUSED = (
    # other processes' memory and descriptors
    "ptrace process_vm_readv process_vm_writev process_madvise kcmp pidfd_getfd "
    # namespaces and mounts
    "unshare setns mount umount umount2 move_mount fsopen fsconfig fsmount fspick open_tree mount_setattr pivot_root "
    "chroot name_to_handle_at open_by_handle_at "
    # kernel surface that programs do not need
    "bpf perf_event_open userfaultfd keyctl add_key request_key fanotify_init memfd_secret "
    "lookup_dcookie quotactl quotactl_fd nfsservctl modify_ldt vm86 vm86old uselib vhangup acct syslog "
    # the machine
    "kexec_load kexec_file_load init_module finit_module delete_module create_module reboot swapon swapoff iopl ioperm "
    "settimeofday clock_settime clock_adjtime adjtimex stime sethostname setdomainname"
)
ABSENT = "clone3 io_uring_setup io_uring_enter io_uring_register"
"""Said not to exist: libraries then use what came before, whose arguments a filter can see."""
_NEW_NAMESPACES = (0x80, 0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)
_SCENE = ("mount", "setns", "unshare")
_TERMINAL_INPUT = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
_UNIX, _INET, _INET6 = 1, 2, 10
_ESCAPES = "setsid setpgid"
_OUTLIVING = "shmget semget msgget"
"""What stays when a program has ended, unless an IPC namespace ends with it."""
_SIGNALS = "kill tkill tgkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_send_signal"


@cache
def filter_program(contained: bool, signals: bool = True, scene: bool = False) -> bytes:
    """The filter, for this machine's architecture; any other architecture's calls end the process.

    Args:
        contained: in namespaces of its own: sockets reach nothing. Otherwise there are none, a process cannot leave its
            group, which is how it is ended, and nothing that outlives it can be made.
        scene: leave what it takes to set a program's scene: mounts and namespaces. Installed once, before programs
            are forked, that costs them nothing; they have no right to either.
        signals: whether signals may be sent; without namespaces only if Landlock keeps them inside.

    Raises:
        UserError: libseccomp or its binding is missing.
    """
    try:
        import pyseccomp as seccomp  # type: ignore[import-untyped]
    except (ImportError, RuntimeError, OSError) as error:
        raise UserError(
            f"the sandbox needs libseccomp and its Python binding ({error})",
            hint="apt-get install libseccomp2 && pip install 'flywheel[code]'",
        ) from error
    refuse = seccomp.ERRNO(errno.EPERM)
    rules = seccomp.SyscallFilter(seccomp.ALLOW)

    def add(action: int, name: str, *arguments: object) -> None:
        if seccomp.resolve_syscall(seccomp.system_arch(), name) >= 0:  # not a name of other architectures or times
            rules.add_rule(action, name, *arguments)

    for name in REFUSED.split():
        if not (scene and name in _SCENE):
            add(refuse, name)
    for name in ABSENT.split():
        add(seccomp.ERRNO(errno.ENOSYS), name)
    for flag in () if scene else _NEW_NAMESPACES:
        add(refuse, "clone", seccomp.Arg(0, seccomp.MASKED_EQ, flag, flag))
    for request in _TERMINAL_INPUT:
        add(refuse, "ioctl", seccomp.Arg(1, seccomp.MASKED_EQ, 0xFFFFFFFF, request))
    families = (_UNIX, _INET, _INET6) if contained else ()
    unsupported = seccomp.ERRNO(errno.EAFNOSUPPORT)
    for family in set(range(_INET6 + 1)) - set(families):
        add(unsupported, "socket", seccomp.Arg(0, seccomp.EQ, family))
    add(unsupported, "socket", seccomp.Arg(0, seccomp.GT, _INET6))
    if not contained:
        for name in (*_ESCAPES.split(), *_OUTLIVING.split()):
            add(refuse, name)
    if not signals:
        for name in _SIGNALS.split():
            add(refuse, name)
    with tempfile.TemporaryFile() as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()
