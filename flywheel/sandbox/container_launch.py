"""What is laid into a container, and the shell script that starts the program there and tells how it ended.

The script is the container's first process and runs as its root; the program runs as another user without
capabilities, and can neither signal nor trace it. What it tells is in a folder that only root can write.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flywheel.sandbox.job import MIB, Limits

MOUNT = "/flywheel"
STARTED = b"flywheel: started\n"
"""The first line of stdout, and on stderr where the engine's warnings end: the program's time begins."""
STACK = 256 * MIB

_SCRIPT = """\
exec 3>&2 2>/dev/null # what this shell says of signals is not the program's
become='setpriv --reuid={user} --regid={user} --clear-groups --inh-caps=-all --bounding-set=-all --no-new-privs --'
cgroup=/sys/fs/cgroup
export HOME=/tmp/work TMPDIR=/tmp USER=user LOGNAME=user LANG=C.UTF-8 LC_ALL=C.UTF-8 TZ=UTC
{exports}
if ! why=$($become sh -c 'umask 022; mkdir /tmp/work && cp -R {mount}/job/. /tmp/work/' 2>&1) || ! cd /tmp/work; then
  echo "the work folder: $why" >&3
  exit 1
fi
ulimit -s {stack}
printf '{started}' >&3
printf '{started}'
env --default-signal=INT,QUIT $become {command} <{mount}/stdin 2>&3 3>&- &
wait $!
code=$?
kill -KILL -1
{fetch}
{{
  echo "code $code"
  cat $cgroup/memory/memory.oom_control || cat $cgroup/memory.events
  echo "peak $(cat $cgroup/memory/memory.max_usage_in_bytes || cat $cgroup/memory.peak || echo 0)"
  echo "cpu_ns $(cat $cgroup/cpuacct/cpuacct.usage)"
  cat $cgroup/cpu.stat
}} >{mount}/out/facts
exit 0
"""


@dataclass(frozen=True)
class Launch:
    """One program in one container.

    Attributes:
        fetch: files to bring back; None is the whole work folder.
        modes: of files that are not plain ones.
    """

    files: Mapping[str, bytes]
    command: tuple[str, ...]
    stdin: bytes = b""
    environment: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    fetch: tuple[str, ...] | None = ()
    modes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Facts:
    """What the launcher saw: exit code as a shell has it, kills for want of memory, CPU seconds, peak bytes.

    ``written``: when it did, in epoch seconds.
    """

    code: int
    oom: int
    cpu: float
    memory: int
    written: float
    tar: bytes

    @classmethod
    def read(cls, folder: Path) -> Facts | None:
        """None if the launcher did not come to its end."""
        facts = folder / "out" / "facts"
        try:
            lines = facts.read_text().split("\n")
        except FileNotFoundError:
            return None
        told = {key: int(value) for key, value in (line.split() for line in lines if line.count(" ") == 1)}
        if "code" not in told:
            return None
        cpu = told["usage_usec"] / 1e6 if "usage_usec" in told else told.get("cpu_ns", 0) / 1e9
        archive = folder / "out" / "files.tar"
        tar = archive.read_bytes() if archive.exists() else b""
        return cls(told["code"], told.get("oom_kill", 0), cpu, told.get("peak", 0), facts.stat().st_mtime, tar)


def prepare(folder: Path, launch: Launch, user: int) -> None:
    """Lay out a folder that is mounted at ``MOUNT``.

    Args:
        user: numeric id that the program gets in the container.
    """
    (folder / "out").mkdir(parents=True)
    (folder / "out").chmod(0o700)
    folder.chmod(0o711)
    for name, content in launch.files.items():
        path = folder / "job" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(launch.modes.get(name, 0o644))
    for path in (folder / "job").rglob("*"):
        if path.is_dir():
            path.chmod(0o755)
    (folder / "job").mkdir(exist_ok=True)
    (folder / "job").chmod(0o755)
    (folder / "stdin").write_bytes(launch.stdin)
    (folder / "launch.sh").write_text(_script(launch, user))


def _script(launch: Launch, user: int) -> str:
    fetch = ""
    if launch.fetch is None or launch.fetch:
        # All of it, as the program's user: a name that was asked for may lead through a link to elsewhere.
        fetch = f"$become tar -cf - . | head -c {2 * launch.limits.disk + MIB} >{MOUNT}/out/files.tar"
    return _SCRIPT.format(
        user=user,
        mount=MOUNT,
        exports="\n".join(f"export {name}={shlex.quote(value)}" for name, value in launch.environment.items()),
        stack=STACK // 1024,
        started=STARTED.decode().replace("\n", "\\n"),
        command=shlex.join(launch.command),
        fetch=fetch,
    )


def ulimits(limits: Limits) -> list[str]:
    """A container's own limits: all of them may be lowered, which needs no right."""
    seconds = max(1, math.ceil(limits.cpu))
    each = {"nofile": (1024, 1024), "nproc": (1024, 1024), "core": (0, 0), "cpu": (seconds, seconds + 1)}
    each["fsize"] = (limits.disk, limits.disk)
    return [word for name, (soft, hard) in each.items() for word in ("--ulimit", f"{name}={soft}:{hard}")]
