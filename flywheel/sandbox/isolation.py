"""How zygotes are started: inside bubblewrap, or on the machine's own namespaces under Landlock.

What is possible depends on the machine: ``ways`` lists what may be tried from the strongest down, and the executor
tries them for real. The sandbox shows of the machine: ``/usr``, the Python that flywheel runs on with its packages, and
of ``/etc`` what loaders and runtimes cannot do without. All of it is read-only.
"""

from __future__ import annotations

import json
import os
import shutil
import site
import stat
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Literal

from flywheel.sandbox.inside import kernel
from flywheel.sandbox.languages import LANGUAGES, SANDBOX_PATH
from flywheel.sandbox.seccomp import filter_program

INSIDE = Path(__file__).parent / "inside"
SCRATCH = "/tmp"
"""Where a program's own tmpfs is; its work folder is ``work`` below."""
_GUEST = "/run/guest"
_WARM = "/run/warm"
_FIRST_UID = 1_900_000_000  # systemd keeps the range above its containers free
_SIGNALS_KEPT_INSIDE = 6  # Landlock's ABI from which signals can be kept inside
_ETC = ("ld.so.cache", "ld.so.conf", "ld.so.conf.d")
_OWN_ETC = {
    "passwd": "root:x:0:0::/:/bin/sh\nuser:x:1000:1000::/tmp/work:/bin/sh\n",
    "group": "root:x:0:\nuser:x:1000:\n",
    "hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}

Way = Literal["root", "user", "landlock"]
"""bubblewrap started by root, who then becomes a user of the slot's own; bubblewrap in a user namespace; Landlock."""


@dataclass(frozen=True)
class Start:
    """A zygote's command line, with the descriptors that it inherits beside the control socket."""

    command: list[str]
    environment: dict[str, str]
    texts: list[int]


def ways() -> list[Way]:
    """What may be tried here, strongest first."""
    found: list[Way] = []
    if sys.platform == "linux" and shutil.which("bwrap"):
        found += ["root", "user"] if os.geteuid() == 0 else ["user"]
    if sys.platform == "linux" and kernel.landlock_version() > 0:
        found.append("landlock")
    return found


def _uid(way: Way, index: int) -> int | None:
    """A user of the slot's own, which no account of the machine has; None where only root could become one."""
    if os.geteuid() != 0 or way == "user" or (way == "landlock" and not _open_to_all(python())):
        return None
    return _FIRST_UID + os.getpid() % 1_000_000 * 128 + index % 128


def others(way: Way, index: int) -> int:
    """Processes and threads that the kernel counts as the program's user's, though they are not the program's."""
    if way != "landlock" or _uid(way, index) is not None or os.geteuid() == 0:
        return 0  # a user, or a user namespace, of its own; and of root the kernel does not count them
    count = 1024  # what may be started while the program runs, in other slots as well
    for folder in glob("/proc/[0-9]*"):  # noqa: PTH207
        with suppress(OSError):
            count += len(os.listdir(f"{folder}/task")) if os.stat(folder).st_uid == os.getuid() else 0  # noqa: PTH116, PTH208
    return count


def scratch(way: Way, index: int, folder: Path) -> str:
    """Where a slot's programs have their work folder: a tmpfs of each one's own; with Landlock a folder on disk."""
    if way != "landlock":
        return SCRATCH
    path = folder / f"slot{index}"
    path.mkdir(mode=0o700, exist_ok=True)
    uid = _uid(way, index)
    if uid is not None:
        os.chown(path, uid, uid)
    return str(path)


def warm(way: Way, folder: Path) -> tuple[Path, str]:
    """Where an executor keeps what its compilers read for every program, and what that is called in a sandbox."""
    path = folder / "warm"
    path.mkdir(mode=0o755, exist_ok=True)
    return path, str(path) if way == "landlock" else _WARM


def start(
    way: Way, slot: int, hash_seed: int, preload: Iterable[str], control: int, scratch: str, folder: Path
) -> Start:
    """The command line of a zygote.

    Args:
        way: how it is isolated.
        slot: its number; with root's rights each has a user of its own.
        hash_seed: PYTHONHASHSEED of all its programs.
        preload: modules to import beside the usual ones.
        control: descriptor of the control socket.
        scratch: with Landlock: the slot's folder.
        folder: of the executor.
    """
    ready, _ = warm(way, folder)
    contained = way != "landlock"
    proc = way != "user" or os.geteuid() != 0  # with root's user bubblewrap covers parts of /proc
    early = contained and proc
    signals = contained or kernel.landlock_version() >= _SIGNALS_KEPT_INSIDE
    settings = {
        "level": "namespaces" if contained else "landlock",
        "uid": _uid(way, slot),
        "mount_proc": way == "root",
        "proc": proc,
        "seccomp": filter_program(True, scene=True).hex() if early else "",
        "seccomp_late": "" if early else filter_program(contained, signals).hex(),
        "preload": list(preload),
        "path": packages(),
        "readable": [] if contained else [*_roots(), "/dev", *_etc(), str(ready)],
        "scratch": SCRATCH if contained else scratch,
    }
    zygote = [str(python()), "-S", "-s", "-P", "-B", "-m", "flywheel.sandbox.inside.zygote", json.dumps(settings)]
    environment = _environment(hash_seed, SCRATCH if contained else scratch)
    if contained:
        environment["PYTHONPATH"] = _GUEST
        texts = [_text(name, content) for name, content in _OWN_ETC.items()]
        return Start([*_bubblewrap(way, texts, ready), *zygote], environment, texts)
    environment["PYTHONPATH"] = str(INSIDE.parents[2])
    return Start(zygote, environment, [])


def remarks(way: Way) -> list[str]:
    """What is weaker than the best, in words."""
    if way == "landlock":
        version = kernel.landlock_version()
        said = ["no user namespaces: programs share the machine's namespaces, under Landlock and seccomp"]
        said += ["disk is limited per file, not per work folder"]
        if version < _SIGNALS_KEPT_INSIDE:
            said.append(f"Landlock ABI {version}: programs cannot send signals, not even to their own children")
        if os.geteuid() == 0 and not _open_to_all(python()):
            said.append(f"programs run as root without capabilities, since other users cannot read {python()}")
        return said
    if way == "user" and os.geteuid() == 0:
        return ["programs run as root's user, without its rights, and see no /proc"]
    return []


def _bubblewrap(way: Way, texts: list[int], ready: Path) -> list[str]:
    command = ["bwrap", "--die-with-parent", "--new-session", "--unshare-pid", "--unshare-ipc", "--unshare-net"]
    command += ["--unshare-uts", "--unshare-cgroup-try", "--hostname", "sandbox"]
    for path in _roots():
        for parent in reversed(Path(path).parents[:-1]):  # bubblewrap would give them the modes that they have outside
            command += ["--dir", str(parent)]
        command += ["--ro-bind", path, path]
    for path in ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"):
        if Path(path).is_symlink():
            command += ["--symlink", os.readlink(path), path]
    for folder in ("/etc", "/run"):  # left to itself, bubblewrap makes them for root alone
        command += ["--dir", folder]
    for path in _etc():
        command += ["--ro-bind", path, path]
    for (name, _), text in zip(_OWN_ETC.items(), texts, strict=True):
        command += ["--perms", "0644", "--file", str(text), f"/etc/{name}"]
    guest = Path(f"{_GUEST}/flywheel/sandbox/inside")
    for parent in reversed(guest.parents[:-1]):
        command += ["--dir", str(parent)]
    command += ["--ro-bind", str(INSIDE), str(guest), "--ro-bind", str(ready), _WARM]
    command += ["--dev", "/dev", "--dir", SCRATCH, "--dir", "/proc"]
    if way == "root":
        # Only until the zygote has mounted /proc and become the slot's user.
        command += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", "--cap-add", "CAP_SYS_ADMIN"]
    else:
        command += ["--unshare-user", "--proc", "/proc"]
    return [*command, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/", "--"]


def _environment(hash_seed: int, scratch: str) -> dict[str, str]:
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {
        "PATH": f"{python().parent}:{SANDBOX_PATH}",
        "HOME": f"{scratch}/work",
        "TMPDIR": scratch if scratch == SCRATCH else f"{scratch}/work",
        "USER": "user",
        "LOGNAME": "user",
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "PYTHONHASHSEED": str(hash_seed),
        "PERL_HASH_SEED": str(hash_seed),
        "PYTHONDONTWRITEBYTECODE": "1",
        **one_thread,
    }


def python() -> Path:
    """The interpreter below all virtual environments."""
    return Path(os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable))


def packages() -> list[str]:
    """Folders of packages that programs may import, such as this environment's numpy."""
    places = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    own = [p for p in places if not p.startswith((site.getusersitepackages(), f"{sys.base_prefix}/"))]
    return [path for path in dict.fromkeys(own) if Path(path).is_dir()]


def shown() -> list[str]:
    """What programs see of this machine, read-only."""
    return [*_roots(), *_etc()]


def _roots() -> list[str]:
    paths = ["/usr", *(p for p in ("/bin", "/sbin", "/lib", "/lib32", "/lib64") if not Path(p).is_symlink())]
    paths += [os.path.realpath(sys.base_prefix), sys.base_prefix, str(python().parent), *packages()]
    there = [path for path in dict.fromkeys(paths) if Path(path).exists()]
    return [path for path in there if not any(path.startswith(f"{other}/") for other in there)]


def _etc() -> list[str]:
    patterns = [f"/etc/{name}" for name in _ETC] + [etc for row in LANGUAGES.values() for etc in row.etc]
    return sorted({path for pattern in patterns for path in glob(pattern)})  # noqa: PTH207


def _open_to_all(path: Path) -> bool:
    """Whether any user can reach a file."""
    folders = [parent.stat().st_mode & stat.S_IXOTH for parent in path.parents]
    return all(folders) and bool(path.stat().st_mode & stat.S_IROTH)


def _text(name: str, content: str) -> int:
    """A descriptor that bubblewrap reads a small file from."""
    descriptor = os.memfd_create(name, 0)
    os.write(descriptor, content.encode())
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
