"""docker's and podman's command line: one container from start to removal, and what may be left of earlier ones."""

from __future__ import annotations

import os
import selectors
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Literal, cast

from flywheel.errors import UserError
from flywheel.sandbox import isolation
from flywheel.sandbox.container_launch import MOUNT, STARTED, Launch, prepare, ulimits
from flywheel.sandbox.container_seccomp import profile
from flywheel.sandbox.job import Limits
from flywheel.sandbox.languages import SANDBOX_PATH
from flywheel.sandbox.pool import SandboxFailed

PREFIX = "flywheel-"
_STARTING = 120.0
"""Seconds until a container has started; machines under load take many times the usual third of one."""
_PATIENCE = 60.0
"""Seconds for any other command of the engine."""
_KILLED = 137
"""Exit code of what SIGKILL ended."""
_NO_DAEMON = ("cannot connect to the docker daemon", "connection refused", "is the docker daemon running")


@dataclass(frozen=True)
class Ended:
    """How a container's client ended.

    Attributes:
        limit: that it was stopped at; None if it ended by itself.
        code: the client's exit code.
        wall: seconds since the program was started.
        at: epoch seconds when that was seen.
        oom: the engine says that the kernel ended the container's first process for want of memory.
    """

    limit: Literal["wall", "output_limit"] | None
    code: int
    wall: float
    at: float
    stdout: bytes
    stderr: bytes
    oom: bool = False


@dataclass(frozen=True)
class Client:
    """An engine that works here, with the arguments that it needs.

    Attributes:
        engine: "podman" or "docker".
        flags: arguments of every ``run``.
        rootfs: root file system instead of images.
    """

    engine: str
    flags: tuple[str, ...]
    rootfs: Path | None = None

    @classmethod
    def find(
        cls, engine: str | None, scratch: Path, rootfs: str | None, images: Sequence[str], flags: Sequence[str]
    ) -> Client:
        """The first engine, and the first way to start a container with it, that works.

        Args:
            images: that are wanted; one is started, of the engine that has most of them. Where none is there yet,
                nothing can be tried.

        Raises:
            UserError: none does; with what each of them said.
        """
        installed = [name for name in ([engine] if engine else ["podman", "docker"]) if shutil.which(name)]
        if not installed:
            wanted = engine or "neither podman nor docker"
            raise UserError(f"containers: {wanted} is {'not ' if engine else ''}installed", hint=_HINTS["none"])
        root, binds = _root(scratch, rootfs)
        said = {name: cls(name, ()).alive() for name in installed}
        living = [
            cls(name, (*binds, *_calls(name, scratch), *flags), root) for name, why in said.items() if why is None
        ]
        there = {client.engine: [root] if root else client.present(images) for client in living}
        living.sort(key=lambda client: -len(there[client.engine]))
        if living and not there[living[0].engine]:
            return living[0]
        tried = [why for why in said.values() if why is not None]
        for client in living:
            for more in _ways(client.engine, flags):
                able = replace(client, flags=(*more, *client.flags))
                for image in there[client.engine]:
                    why = able._trial(scratch, image)
                    if why is None:
                        return able
                    of = "" if root else f" {image}"
                    tried.append(f"{' '.join([client.engine, 'run', *more])}{of}: {why}")
        hint = _HINTS["dead"] if any(sign in " ".join(tried).lower() for sign in _NO_DAEMON) else _HINTS["flags"]
        raise UserError(f"no container can be started here: {'; '.join(tried)}", hint=hint)

    def run(self, image: str | Path, folder: Path, limits: Limits) -> Ended:
        """Start a container on a folder that ``prepare`` laid out, watch it, and remove it.

        Raises:
            SandboxFailed: the program was not started.
        """
        name = f"{_mine()}{folder.name}"
        process = subprocess.Popen(
            self._command(name, image, folder, limits),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,  # podman's monitor leaves notes where it was started
        )
        try:
            ended = _watch(process, limits)
            return replace(ended, oom=ended.code == _KILLED and self._ran_out_of_memory(name))
        finally:
            process.kill()  # first: an engine waits for a client that does not read
            self._engine("rm", "-f", *self._at_once(), name)
            process.wait()
            for pipe in (process.stdout, process.stderr):
                cast(IO[bytes], pipe).close()

    def alive(self) -> str | None:
        """None if the engine answers; else what it says."""
        try:
            done = self._engine("info", "--format", "{{.ID}}" if self.engine == "docker" else "{{.Host.Arch}}")
        except SandboxFailed as error:
            return str(error)
        said = done.stderr.decode(errors="replace").strip()
        return f"{self.engine}: {said.splitlines()[-1] if said else 'failed'}" if done.returncode else None

    def present(self, wanted: Sequence[str]) -> list[str]:
        """Those of the images that are there."""
        listed = self.images()
        return [image for image in dict.fromkeys(wanted) if self.has(image, listed)]

    def images(self) -> frozenset[str]:
        """Names of the images that are there."""
        if self.rootfs:
            return frozenset()
        listed = self._engine("images", "--format", "{{.Repository}}:{{.Tag}}").stdout.decode(errors="replace")
        return frozenset(listed.split())

    def has(self, image: str, images: frozenset[str]) -> bool:
        """Whether an image is among those listed, whatever registry it came from."""
        tagged = image if ":" in image.rsplit("/", 1)[-1] else f"{image}:latest"
        if any(known == tagged or known.endswith(f"/{tagged}") for known in images):
            return True
        return self._engine("image", "inspect", image).returncode == 0  # by its id or digest

    def sweep(self) -> None:
        """Remove containers whose executor is gone.

        Only of executors whose processes can be seen from here: others may share the engine, from another machine or
        out of a container.
        """
        visible = _visible()
        for name in self._names(visible):
            pid, born, *_ = f"{name.removeprefix(visible)}--".split("-")
            if not pid.isdigit() or _born(int(pid)) != born:
                self._engine("rm", "-f", *self._at_once(), name)

    def remove_all(self) -> None:
        """Remove what is left of this process's containers."""
        for name in self._names(_mine()):
            self._engine("rm", "-f", *self._at_once(), name)

    def _command(self, name: str, image: str | Path, folder: Path, limits: Limits) -> list[str]:
        memory, disk = limits.memory, limits.disk
        command = [self.engine, "run", "--name", name, "--network", "none", "--log-driver", "none", "--pull", "never"]
        command += ["--hostname", "sandbox", "--read-only", "--cap-drop", "all", "--user", "0:0", "--workdir", "/"]
        command += ["--cap-add", "SETUID", "--cap-add", "SETGID", "--cap-add", "SETPCAP", "--cap-add", "KILL"]
        command += ["--security-opt", "no-new-privileges", "--ipc", "private", "--entrypoint", "/bin/sh"]
        command += ["--memory", str(memory), "--memory-swap", str(memory), "--shm-size", str(disk)]
        command += ["--pids-limit", str(limits.processes + 4), *ulimits(limits)]
        command += ["--tmpfs", f"/tmp:rw,exec,nosuid,nodev,size={disk}"]
        command += ["-v", f"{folder}:{MOUNT}:ro", "-v", f"{folder}/out:{MOUNT}/out:rw"]
        if self.engine == "podman":  # if this process dies, the container does not stay for ever
            command += ["--timeout", str(int(limits.wall + _STARTING + _PATIENCE))]
        command += self.flags
        if self.rootfs:
            command.append("--rootfs")
        return [*command, str(image), f"{MOUNT}/launch.sh"]

    def _trial(self, scratch: Path, image: str | Path) -> str | None:
        """None if a program runs; else why not."""
        folder = scratch / "trial"
        try:
            prepare(folder, Launch({}, ("sh", "-c", "echo 42")), 61000)
            ended = self.run(image, folder, Limits())
            return None if ended.stdout == b"42\n" else f"the trial program printed {ended.stdout!r} {ended.stderr!r}"
        except SandboxFailed as error:
            return str(error)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _ran_out_of_memory(self, name: str) -> bool:
        """What the engine saw of the memory cgroup: exit code 137 alone may be anybody's kill."""
        return self._engine("inspect", "--format", "{{.State.OOMKilled}}", name).stdout.strip() == b"true"

    def _names(self, prefix: str) -> list[str]:
        listed = self._engine("ps", "-a", "--filter", f"name={prefix}", "--format", "{{.Names}}")
        return [name for name in listed.stdout.decode(errors="replace").split() if name.startswith(prefix)]

    def _at_once(self) -> list[str]:
        return ["-t", "0"] if self.engine == "podman" else []

    def _engine(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        """Raises: SandboxFailed: it does not answer."""
        try:
            return subprocess.run([self.engine, *arguments], capture_output=True, timeout=_PATIENCE, check=False)
        except subprocess.TimeoutExpired as error:
            raise SandboxFailed(f"{self.engine} does not answer within {_PATIENCE:g} s") from error


_HINTS = {
    "none": "apt-get install podman; or use the local executor",
    "dead": "start the daemon (systemctl start docker), or use podman, which needs none: engine: podman",
    "flags": "see what the engine says; further arguments of its `run` can be given with `flags:`",
}


def _ways(engine: str, flags: Sequence[str]) -> list[tuple[str, ...]]:
    """Arguments to try: podman's usual runtime cannot work with every kernel's cgroups."""
    if (
        engine == "podman"
        and not any(flag.startswith("--runtime") for flag in flags)
        and shutil.which("runc", path=os.environ["PATH"] + ":/usr/sbin")
    ):
        return [(), ("--runtime", "runc")]
    return [()]


def _calls(engine: str, scratch: Path) -> list[str]:
    """The system calls that programs may make; docker's own profile is narrow enough, and not in a file."""
    given = profile() if engine == "podman" else None
    if given is None:
        return []
    (scratch / "seccomp.json").write_text(given)
    return ["--security-opt", f"seccomp={scratch / 'seccomp.json'}"]


def _root(scratch: Path, rootfs: str | None) -> tuple[Path | None, list[str]]:
    """A root file system, and the volumes that are mounted into it."""
    if rootfs is None:
        return None, []
    if rootfs != "host":
        root = Path(rootfs).resolve()
        if not (root / "bin" / "sh").exists() and not (root / "usr" / "bin" / "sh").exists():
            raise UserError(f"{rootfs} holds no root file system: it has no /bin/sh", hint="rootfs: host uses /usr")
        return root, []
    root = scratch / "root"
    for name in ("usr", "etc", "tmp", "proc", "dev", "sys", "run", "var"):
        (root / name).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        if (Path("/") / name).is_symlink():
            (root / name).symlink_to(os.readlink(f"/{name}"))
    binds = [word for path in isolation.shown() for word in ("-v", f"{path}:{path}:ro")]
    python = isolation.python().parent
    packages = os.pathsep.join(isolation.packages())
    return root, [*binds, "-e", f"PATH={python}:{SANDBOX_PATH}", "-e", f"PYTHONPATH={packages}"]


def _watch(process: subprocess.Popen[bytes], limits: Limits) -> Ended:
    """Read a container's output until it ends or meets a limit."""
    begun, deadline = time.monotonic(), time.monotonic() + _STARTING
    started = False
    taken = {"stdout": bytearray(), "stderr": bytearray()}
    limit: Literal["wall", "output_limit"] | None = None
    with selectors.DefaultSelector() as selector:
        for name in taken:
            selector.register(getattr(process, name), selectors.EVENT_READ, name)
        while selector.get_map():
            if limit is None and (left := deadline - time.monotonic()) > 0:
                ready = selector.select(left)
            else:
                limit = limit or "wall"
                break
            for key, _ in ready:
                data = os.read(key.fd, 1 << 16)
                if not data:
                    selector.unregister(key.fileobj)
                taken[key.data] += data
            if not started and taken["stdout"].startswith(STARTED):
                started, begun = True, time.monotonic()
                deadline = begun + limits.wall
                del taken["stdout"][: len(STARTED)]
            if started and sum(map(len, taken.values())) > limits.output:
                limit = "output_limit"
                break
    wall, at = time.monotonic() - begun, time.time()
    error = bytes(taken["stderr"])
    if not started:
        said = error.decode(errors="replace").strip() or f"nothing within {_STARTING:g} s"
        raise SandboxFailed(f"the container did not start: {said}")
    _, marked, own = error.partition(STARTED)
    error = own if marked else error
    kept = bytes(taken["stdout"][: limits.output])
    code = process.wait(_PATIENCE) if limit is None else -1
    return Ended(limit, code, wall, at, kept, error[: limits.output - len(kept)])


def _visible() -> str:
    """How names of containers begin whose executors' process ids mean here what they meant there."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    return f"{PREFIX}{boot}-{Path('/proc/self/ns/pid').stat().st_ino}-"


def _mine() -> str:
    """How names of this process's containers begin."""
    return f"{_visible()}{os.getpid()}-{_born(os.getpid())}-"


def _born(pid: int) -> str:
    """When a process was started, in clock ticks since the machine was; "" if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except (OSError, IndexError):
        return ""
