"""Programs in containers: docker or podman by their command line, a fresh container for each program.

A language's image (its row's, or the one that is given for it) must be there already; none is pulled. podman also takes
a root file system in place of images: a folder, or "host", which shows this machine's own ``/usr``.

A program has no network, no capabilities, a read-only root, a tmpfs to work in, and limits on memory and processes. The
container's first process is a shell of root's (``container_launch.py``) that starts it as another user, so that exit
status and resource use are told by someone whom the program cannot reach. Against the local executor: starting takes
some 0.3 s, programs see the real clock, and an exit code above 128 cannot be told from a signal.
"""

from __future__ import annotations

import io
import itertools
import os
import shutil
import tarfile
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from flywheel.errors import UserError
from flywheel.sandbox.compiled import COMPILING, CompileCache
from flywheel.sandbox.container_launch import Facts, Launch, prepare
from flywheel.sandbox.container_run import Client, Ended
from flywheel.sandbox.janitor import Janitor
from flywheel.sandbox.job import Capabilities, Job, Outcome, Usage
from flywheel.sandbox.languages import LANGUAGES, absent, commands, language, work_files
from flywheel.sandbox.pool import Pool, SandboxFailed
from flywheel.sandbox.trial import Trials

Engine = Literal["podman", "docker"]

_USER = 61000
"""The first slot's user: no account of common images has it, and rootless podman can map it."""


class ContainerExecutor(Pool[int]):
    """Runs programs in containers; see ``job.Executor``. A place is a user's number.

    Args:
        engine: "podman" or "docker"; by default the first of them that works here.
        images: image by language, instead of the rows' own; "default" is for those that are not named.
        rootfs: podman only: "host" (this machine's ``/usr``, read-only), or a folder that holds a root file system.
        slots: programs at once; by default one per core that this process may use.
        flags: further arguments of ``run``, such as ``["--runtime", "runc"]``.

    Raises:
        UserError: no container can be started here; says what mends it.
    """

    def __init__(
        self,
        engine: Engine | None = None,
        images: Mapping[str, str] | None = None,
        rootfs: str | None = None,
        slots: int | None = None,
        flags: Sequence[str] = (),
    ) -> None:
        if rootfs and engine == "docker":
            raise UserError("docker has no --rootfs", hint="use podman for it, or give images")
        self._folder = Path(tempfile.mkdtemp(prefix="flywheel-containers-"))
        self._folder.chmod(0o711)
        self._janitor = Janitor([self._folder])
        self._compiled = CompileCache()
        self._trials = Trials()
        self._numbers = itertools.count()
        self._rootfs = rootfs
        try:
            named = {language(name).name: image for name, image in (images or {}).items() if name != "default"}
            default = (images or {}).get("default")
            self._image = {name: named.get(name, default or row.image) for name, row in LANGUAGES.items()}
            wanted = [*(images or self._image).values()]
            self._client = Client.find("podman" if rootfs else engine, self._folder, rootfs, wanted, flags)
            self._client.sweep()
            self._images = self._client.images()
            self._check(named)
        except BaseException as error:
            self._janitor.clean()
            if isinstance(error, SandboxFailed):
                raise UserError(f"containers: {error}", hint="see whether the engine works by itself") from error
            raise
        super().__init__(slots or len(os.sched_getaffinity(0)), "container")

    def capabilities(self) -> Capabilities:
        self._check_open()
        where = f"{self._client.engine}{', root file system ' + self._rootfs if self._rootfs else ''}"
        remarks = (where, "an exit code above 128 counts as ended by a signal")
        languages = tuple(name for name in LANGUAGES if self._lacks(name) is None)
        return Capabilities("container", "container", languages, self.count, clock=False, remarks=remarks)

    def health(self) -> str | None:
        return super().health() if self._closed else self._client.alive() or self._problem

    def release(self) -> None:
        self._client.remove_all()
        self._janitor.clean()

    def open(self, number: int) -> int:
        return _USER + number

    def admit(self, job: Job) -> None:
        lacks = self._lacks(language(job.language).name)
        if lacks is not None:
            raise UserError(f"{job.language} programs cannot be run in containers here: {lacks[0]}", hint=lacks[1])

    def attempt(self, job: Job, case: int, place: int) -> Outcome:
        self._trials.require(job.language, lambda trial: self._attempt(trial, 0, place))
        return self._attempt(job, case, place)

    def _attempt(self, job: Job, case: int, place: int) -> Outcome:
        row = language(job.language)
        compiler, command = commands(job)
        files = work_files(job)
        environment = {**row.env, "PYTHONHASHSEED": str(job.hash_seed), "PERL_HASH_SEED": str(job.hash_seed)}
        modes: dict[str, int] = {}
        if compiler is not None:
            launch = Launch(files, compiler, environment=row.env, limits=COMPILING, fetch=None)
            key = (row.name, compiler, tuple(sorted(files.items())))
            made = self._compiled.get(key, lambda: self._run(launch, row.name, place))
            if not made.ok:
                return replace(made, status="compile_error", stdout=b"", stderr=made.stdout + made.stderr, files={})
            modes = dict.fromkeys(made.files.keys() - files.keys(), 0o755)
            files = {**files, **made.files}
        limits = replace(job.limits, processes=max(job.limits.processes, row.processes))
        launch = Launch(files, command, job.stdin[case], environment, limits, job.fetch, modes)
        return self._run(launch, row.name, place)

    def _run(self, launch: Launch, name: str, user: int) -> Outcome:
        """One container's whole life.

        Raises:
            SandboxFailed: it did not start, or nobody can say how it ended.
        """
        folder = self._folder / f"{next(self._numbers)}-{uuid.uuid4().hex[:8]}"
        try:
            prepare(folder, launch, user)
            image = self._client.rootfs or self._image[name]
            ended = self._client.run(image, folder, launch.limits)
            return _outcome(ended, Facts.read(folder), launch)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _lacks(self, name: str) -> tuple[str, str] | None:
        """Why a language cannot be run, and what mends it."""
        if self._rootfs == "host":
            lacks = absent(name)
            packages = " ".join(lacks.values())
            return (f"{', '.join(lacks)} is missing", f"apt-get install {packages}") if lacks else None
        if self._rootfs or self._client.has(self._image[name], self._images):
            return None
        image, engine = self._image[name], self._client.engine
        get = f"{engine} pull {image}"
        if image == "flywheel-sandbox":
            get = f"{engine} build -t flywheel-sandbox -f launch/Containerfile.sandbox launch"
        return f"the image {image} is not there", get

    def _check(self, named: Mapping[str, str]) -> None:
        """Complain of images that were asked for, and of having none at all."""
        wanting = [lacks for name in named if (lacks := self._lacks(name)) is not None]
        if wanting:
            raise UserError("; ".join(why for why, _ in wanting), hint="; ".join(dict.fromkeys(h for _, h in wanting)))
        lacking = [lacks for name in LANGUAGES if (lacks := self._lacks(name)) is not None]
        if len(lacking) == len(LANGUAGES):
            raise UserError(
                f"{self._client.engine} has none of the languages' images, such as {self._image['python']}",
                hint=f"{lacking[0][1]}, name your own with `images:`, or `rootfs: host` (podman)",
            )


def _outcome(ended: Ended, facts: Facts | None, launch: Launch) -> Outcome:
    limits = launch.limits
    usage = Usage(facts.cpu if facts else 0.0, ended.wall, facts.memory if facts else 0)
    told = Outcome("exited", stdout=ended.stdout, stderr=ended.stderr, usage=usage, limits=limits, level="container")
    if ended.limit == "wall" and facts is not None and facts.written < ended.at:
        raise SandboxFailed("the program ended in time and the engine did not say so: was its monitor killed?")
    if ended.limit is not None:
        words = {"wall": f"{limits.wall:g} s passed", "output_limit": f"more than {limits.output} bytes of output"}
        return replace(told, status=ended.limit, detail=words[ended.limit])
    if facts is None:
        # The launcher is the last that the kernel would choose, but when memory is short it may have to. Only the
        # engine can tell that from a kill by anybody else, which says nothing of the program.
        if ended.oom:
            return replace(told, status="oom", detail=f"{limits.memory} bytes of memory are used up")
        raise SandboxFailed(f"the container ended with {ended.code} and no word: {_last(ended.stderr)}")
    code, signal = (facts.code, None) if facts.code <= 128 else (None, facts.code - 128)
    files = _regular(facts.tar, launch, limits.disk)
    if facts.code != 0 and facts.oom:
        return replace(told, status="oom", detail=f"{limits.memory} bytes of memory are used up")
    if signal == 24 or (signal == 9 and facts.cpu >= limits.cpu):
        return replace(told, status="cpu", detail=f"{limits.cpu:g} s of CPU time are used up")
    if signal is not None:
        return replace(told, status="signaled", signal=signal)
    return replace(told, exit_code=code, files=files)


def _regular(tar: bytes, launch: Launch, most: int) -> dict[str, bytes]:
    """The regular files of an archive that a program may have filled as it liked; what is cut off is left out."""
    files: dict[str, bytes] = {}
    total = 0
    try:
        with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
            for member in archive:
                total += member.size
                if total > most:
                    break
                name = member.name.removeprefix("./")
                content = archive.extractfile(member) if member.isreg() else None
                if content is not None and (launch.fetch is None or name in launch.fetch):
                    files[name] = content.read()
    except (tarfile.TarError, EOFError):
        pass  # cut at the disk limit
    known = launch.files if launch.fetch is None else {}
    return {name: content for name, content in files.items() if known.get(name) != content}


def _last(stderr: bytes) -> str:
    lines = stderr.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "nothing on stderr"
